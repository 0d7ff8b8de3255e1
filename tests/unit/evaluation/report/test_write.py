import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.comparison.results import Failure
from backstay.evaluation.report.terminal_table import terminal_table
from backstay.evaluation.report.write import write_report
from tests.support.made_up_results import made_up_results
from tests.support.processes import run_python


class Page(HTMLParser):
    """The ids, links, headings, tables and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.words, self.headings = [], [], [], []
        self.captions, self.tables, self.pictures, self.regions = 0, 0, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [
            (tag, attrs[name]) for name in ("src", "href", "xlink:href") if name in attrs
        ]
        self.captions += tag == "caption"
        self.tables += tag == "table"
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if attrs.get("role") == "img":
            self.pictures.append(attrs.get("aria-label"))
        if attrs.get("role") == "region":
            self.regions.append((attrs.get("tabindex"), attrs.get("aria-label")))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def out(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    named = replace(results, dataset={**results.dataset, "name": "<b>R&D</b>"})
    assert write_report(Analysis.of(named), folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def html(out):
    return (out / "report.html").read_text(encoding="utf-8")


def test_the_page_loads_nothing(html):
    page = Page(html)
    assert {tag for tag, _ in page.links} == {"a", "use"}
    assert all(link.startswith("#") for _, link in page.links)
    assert "<script" not in html
    assert "@import" not in html
    urls = set(re.findall(r"https?://[^\s\"'<>]+", html))
    assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_the_ids_of_the_page_are_unique_and_its_references_resolve(html):
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    targets = {link[1:] for _, link in page.links} | set(re.findall(r"url\(#([^)]*)\)", html))
    assert targets <= set(page.ids)


def test_the_page_can_be_read_aloud(html):
    page = Page(html)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(page.headings))
    assert page.captions == page.tables == 8
    assert len(page.regions) == page.tables  # each table scrolls in a box that takes the focus
    assert all(tabindex == "0" and label for tabindex, label in page.regions)
    assert len(page.pictures) == 25
    assert all(len(label) > 20 for label in page.pictures)


def test_the_page_shows_the_figures(html, results):
    text = " ".join(Page(html).words)
    for row in results.summary:
        assert row.method in text
        assert f"{row.intended_recall50:.4f}" in text
        assert f"{row.unintended_auc:.4f}" in text
    assert "Ship this update with backstay." in text
    assert "−35.0 %" in text
    assert "−2.1 to 0.0" in text
    assert "all 2 labels are positive" in text
    assert "Recall@50 is optimistic" in text
    assert "4,000 interactions" in text


def test_the_markdown_has_the_same_tables_and_the_plots(out, results):
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "**Ship this update with backstay.**" in text
    images = re.findall(r"!\[[a-z]+\]\(([^)]*)\)", text)
    names = ["costs", "methods", "versions", "tasks", "chain"]
    assert images == [f"figures/{name}.png" for name in names]
    for image in images:
        header = (out / image).read_bytes()[:20]
        assert header.startswith(b"\x89PNG")
        assert int.from_bytes(header[16:20]) >= 600  # pixels across
        ET.fromstring((out / image).with_suffix(".svg").read_text(encoding="utf-8"))
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 8
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert all(f"{row.method}" in tables[0] for row in results.summary)
    assert "\n\n\n" not in text
    assert {path.name for path in out.iterdir()} == {
        "report.html",
        "report.md",
        "report.json",
        "figures",
    }


def test_the_document_has_the_same_figures(out, results):
    document = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert set(document) == {"verdict", "table", "groups", "pairs", "compatibility", "failures"}
    assert document["verdict"]["code"] == "ship"
    assert document["verdict"]["ship"] is True
    assert {"code", "question", "figure", "answer"} == set(document["verdict"]["reasons"][0])
    assert document["verdict"]["methods"] == ["backstay"]
    assert document["verdict"]["tolerated"] == 2
    assert [row["method"] for row in document["table"]] == [r.method for r in results.summary]
    assert document["table"][-1]["total_interval"] == list(results.summary[-1].total_interval)
    assert document["groups"][0] == {"methods": ["backstay"], "apart": []}
    first = document["pairs"][0]
    assert first["told_apart"] == (not first["interval"][0] <= 0 <= first["interval"][1])
    ours = document["compatibility"]["backstay"]
    assert ours["average_compatibility"] == 1
    assert 0 < ours["update_gain"] < 1
    assert len(ours["maps"]) == 10
    assert ours["maps"][0]["compatible"] is True
    assert ours["consumers"]["edge_rating"] == pytest.approx(-0.4)
    assert document["compatibility"]["no-bc"]["update_gain"] is None


def test_names_are_text_and_never_markup(html):
    assert "<b>R" not in html
    assert "&lt;b&gt;R&amp;D" in html


def test_methods_with_equal_vectors_are_not_ranked(tmp_path):
    named = ("fix-m0", "no-bc", "bc-aligner", "backstay")
    results = made_up_results(methods=named)
    equal = replace(
        results,
        summary=(
            *results.summary[:3],
            replace(results.summary[2], method="backstay"),
        ),
        records=tuple(
            replace(record, method="backstay") if record.method == "bc-aligner" else record
            for record in results.records
            if record.method != "backstay"
        )
        + tuple(record for record in results.records if record.method == "bc-aligner"),
        replicates=(
            *results.replicates[:3],
            replace(results.replicates[2], method="backstay"),
        ),
    )
    page = write_report(Analysis.of(equal), tmp_path)
    text = " ".join(" ".join(Page(page.read_text(encoding="utf-8")).words).split())
    assert "Ship this update with bc-aligner or backstay: the run shows no significant" in text
    assert "bc-aligner backstay no significant difference in this run" in text
    assert "≈" in text
    assert not re.search(r"(rank|place) ?\d", text)
    assert "- bc-aligner, backstay: no significant difference in this run" in (
        tmp_path / "report.md"
    ).read_text(encoding="utf-8")
    document = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert document["groups"][0] == {"methods": ["bc-aligner", "backstay"], "apart": []}


def test_where_the_first_model_is_best_the_report_advises_not_to_ship(tmp_path):
    best = made_up_results(
        methods=("fix-m0", "no-bc", "bc-aligner"), costs={"fix-m0": (0.1, 0.0, 0.0)}
    )
    text = write_report(Analysis.of(best), tmp_path).read_text(encoding="utf-8")
    assert "Do not ship this update" in text
    assert 'class="badge"' not in text
    assert "**Do not ship this update" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_failed_cells_are_listed_at_the_top(tmp_path):
    failure = Failure(
        cell="fit version 3 by bc-aligner",
        message="the loss isn't <finite>\nat step 120",
        method="bc-aligner",
        version=3,
    )
    broken = made_up_results(
        methods=("fix-m0", "no-bc", "bc-aligner", "backstay"),
        without=[("bc-aligner", 3), ("bc-aligner", 4)],
        failures=[failure],
    )
    html = write_report(Analysis.of(broken), tmp_path).read_text(encoding="utf-8")
    assert html.index("fit version 3 by bc-aligner") < html.index('id="table"')
    assert "the loss isn&#39;t &lt;finite&gt;" in html
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "- fit version 3 by bc-aligner: `the loss isn't <finite> at step 120`" in text
    assert "| bc-aligner | – (–) | – (–) | – | – |" in text
    assert "Not judged: bc-aligner." in text


def test_a_comparison_without_baselines_or_consumers_has_a_report(tmp_path):
    lone = made_up_results(methods=("bc-aligner",))
    bare = replace(
        lone,
        records=tuple(record for record in lone.records if record.metric == "recall@50"),
        maps=(),
        protocol={},
    )
    text = write_report(Analysis.of(bare), tmp_path / "bare").read_text(encoding="utf-8")
    assert "Run again with no-bc and fix-m0 among --methods" in text
    assert sorted(path.name for path in (tmp_path / "bare/figures").iterdir()) == [
        "versions.png",
        "versions.svg",
    ]
    nothing = replace(bare, records=(), summary=(), replicates=())
    write_report(Analysis.of(nothing), tmp_path / "none")
    assert sorted(path.name for path in (tmp_path / "none").iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]


def test_the_terminal_table_fits_eighty_columns(results, analysis):
    out = StringIO()
    Console(file=out, width=80).print(terminal_table(analysis))
    text = out.getvalue()
    for row in results.summary:
        assert re.search(rf"^ *{row.method} +[−+]?\d", text, re.MULTILINE)
    assert "−35.0 ±0.5" in text
    assert "Ship this update with backstay." in text
    assert "…" not in text


def test_a_report_needs_neither_torch_nor_ray_and_plots_only_when_written():
    code = (
        "import sys, backstay.evaluation.report.write as r; "
        "print({'torch', 'ray', 'matplotlib'} & set(sys.modules))"
    )
    done = run_python("-c", code, check=True)
    assert done.stdout.strip() == "set()"
