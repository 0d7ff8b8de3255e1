from dataclasses import replace

import pytest

from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.comparison.results import Failure
from backstay.evaluation.report.table import cost_shade, heat
from backstay.evaluation.report.tables import tables
from tests.support.made_up_results import made_up_results


def cells(table, method):
    return next(row for row in table.rows if row.method == method).cells


@pytest.fixture(scope="module")
def made(analysis):
    return tables(analysis)


def test_every_table_is_a_rectangle(made):
    assert list(made) == [
        "comparison",
        "apart",
        "consumers",
        "compatibility",
        "criterion",
        "flips",
        "slices",
        "maps",
    ]
    for table in made.values():
        assert table.about
        assert {len(row.cells) for row in table.rows} == {len(table.columns)}
        assert sum(span for _, span in table.bands) in (0, len(table.columns))


def test_the_comparison_has_its_intervals(made, results):
    row = next(row for row in results.summary if row.method == "backstay")
    intended, unintended, total, *_ = cells(made["comparison"], "backstay")
    assert intended.text == "−0.5 %"
    assert intended.small == ("−1.3 to +0.2", f"{row.intended_recall50:.4f}")
    assert unintended.small[1] == f"{row.unintended_auc:.4f}"
    assert total.small == ("−2.1 to 0.0",)
    assert [row.method for row in made["comparison"].rows if row.chosen] == ["backstay"]


def test_only_significant_differences_are_shown(made):
    table = made["apart"]
    own = dict(zip(table.columns, cells(table, "bc-aligner"), strict=True))
    assert own["bc-aligner"].text == ""
    assert own["joint-linear-single"].text == "≈"
    assert own["backstay"].text == "−4.2"
    assert cells(table, "backstay")[table.columns.index("bc-aligner")].text == "+4.2"


def test_the_cost_for_each_consumer(made):
    table = made["consumers"]
    own = dict(zip(table.columns, cells(table, "no-bc"), strict=True))
    assert own["edge rating"].text == "−35.0 %"
    assert own["edge rating"].shade == "bad3"
    assert own["retrieval"].text == "−28.0 %"  # version 0 loses nothing
    assert {cell.text for cell in cells(table, "fix-m0")} == {"0.0 %"}


def test_the_criterion_pair_by_pair(made, results):
    table = made["criterion"]
    assert table.columns[:3] == ("1→0", "2→1", "2→0")
    assert table.bands == (("version 1", 1), ("version 2", 2), ("version 3", 3), ("version 4", 4))
    assert {row.method for row in table.rows} == {part.method for part in results.maps}
    assert {cell.text for cell in cells(table, "backstay")} == {"✓"}
    assert {cell.text for cell in cells(table, "finetune")} == {"✗"}
    assert cells(made["compatibility"], "backstay")[0].text == "100.0 %"
    assert cells(made["compatibility"], "finetune")[0].text == "0.0 %"


def test_vectors_that_find_as_much_as_the_old_ones_are_no_failure(results):
    maps = tuple(replace(part, recall=part.old_recall) for part in results.maps)
    table = tables(Analysis.of(replace(results, maps=maps)))["criterion"]
    found = cells(table, "finetune")
    assert {(cell.text, cell.shade) for cell in found} == {("=", "even")}


def test_flips_slices_and_maps(made):
    worse = cells(made["flips"], "no-bc")[0]
    assert worse.text == "26.2 %"
    assert worse.small == ("+7.0 %",)
    assert made["slices"].columns == (
        "everything",
        "users",
        "items",
        "head items",
        "tail items",
        "new since version 0",
    )
    assert cells(made["slices"], "backstay")[0].text == "0.240"
    assert made["maps"].columns == ("1→0", "2→1", "3→2", "4→3", "4→0")
    assert cells(made["maps"], "backstay")[-1].text == "1.48"
    assert cells(made["maps"], "backstay")[0].small == ("κ 1.6",)
    assert cells(made["maps"], "finetune")[-1].small == ("κ 81",)
    assert cells(made["maps"], "posthoc-low-rank")[0].small == ("κ ∞",)


def test_a_method_that_failed_has_dashes():
    failure = Failure(cell="fit", message="boom", method="backstay", version=3)
    results = made_up_results(without=[("backstay", 3)], failures=[failure])
    row = next(row for row in results.summary if row.method == "backstay")
    assert row.intended_recall50 is not None  # over fewer versions than the others'
    analysis = Analysis.of(results)
    shown = next(row for row in analysis.table if row.method == "backstay")
    assert (shown.intended_recall50, shown.unintended_auc, shown.alignment_error) == (None,) * 3
    made = tables(analysis)
    table = made["comparison"]
    assert [cell.text for cell in cells(table, "backstay")[:4]] == ["–"] * 4
    assert cells(table, "bc-aligner")[0].text == "−4.1 %"
    for name in ("consumers", "flips", "slices"):
        assert {cell.text for cell in cells(made[name], "backstay")} == {"–"}
        assert "–" not in {cell.text for cell in cells(made[name], "bc-aligner")}


def test_tables_without_content_are_left_out():
    lone = made_up_results(methods=("bc-aligner",))
    bare = replace(lone, maps=(), records=())
    assert list(tables(Analysis.of(bare))) == ["comparison"]
    alone = tables(Analysis.of(lone))["consumers"]  # no fix-m0: there's nothing to compare with
    assert cells(alone, "bc-aligner")[0].text == "0.792"


@pytest.mark.parametrize(
    ("cost", "shade"),
    [
        (None, ""),
        (-0.4, ""),
        (-1.9, "bad1"),
        (-2.1, "bad2"),
        (-4.1, "bad3"),
        (0.4, ""),
        (0.6, "good"),
    ],
)
def test_shades_of_costs(cost, shade):
    assert cost_shade(cost) == shade


@pytest.mark.parametrize(
    ("value", "shade"),
    [(8, "heat4"), (4.1, "heat4"), (3, "heat3"), (1.5, "heat2"), (0.6, "heat1"), (0.5, "")],
)
def test_each_shade_is_twice_the_one_before(value, shade):
    assert heat(value, 8) == shade
    assert heat(None, 8) == ""
    assert heat(0.0, 0.0) == ""
