from dataclasses import replace

import numpy as np
import pytest

from backstay.evaluation.analysis.significance import Pair, pairs, percentages
from backstay.evaluation.comparison.results import Replicates, Results, Summary
from backstay.evaluation.metrics.bootstrap import interval

B = 200


def replicates(method, *, recall=(), auc=()):
    return Replicates(method=method, recall=tuple(recall), auc=tuple(auc))


def row(method, **percentages):
    return Summary(**dict.fromkeys(Summary.__dataclass_fields__) | {"method": method} | percentages)


def compared(rows, parts):
    return Results(
        dataset={}, protocol={}, summary=tuple(rows), records=(), replicates=tuple(parts)
    )


@pytest.fixture
def noise():
    """What the draw of users does to every method alike."""
    return np.random.default_rng(0).normal(size=(2, B))


def test_an_interval_holds_the_middle_95_of_100():
    values = np.random.default_rng(1).permutation(np.arange(1001.0))
    assert interval(values) == pytest.approx((25, 975))
    assert interval([3.0]) == (3.0, 3.0)
    low, high = interval(values)
    assert sum(low <= value <= high for value in values) / 1001 == pytest.approx(0.95, abs=2e-3)


def test_percentages_are_taken_within_each_replicate():
    parts = (
        replicates("fix-m0", recall=[0.1, 0.3], auc=[0.8, 0.5]),
        replicates("no-bc", recall=[0.2, 0.4], auc=[0.6, 0.6]),
    )
    found = percentages(parts)
    for figure, method, expected in (
        ("intended_pct", "fix-m0", [-50, -25]),
        ("intended_pct", "no-bc", [0, 0]),
        ("unintended_pct", "fix-m0", [0, 0]),
        ("unintended_pct", "no-bc", [-25, 20]),
        ("total_pct", "fix-m0", [-50, -25]),
        ("total_pct", "no-bc", [-25, 20]),
    ):
        assert found[figure][method] == pytest.approx(expected)


def test_without_a_baseline_there_is_no_percentage():
    ours = replicates("bc-aligner", recall=[0.1], auc=[0.5])
    assert percentages([ours]) == {"intended_pct": {}, "unintended_pct": {}, "total_pct": {}}
    without = percentages([ours, replicates("no-bc"), replicates("fix-m0", auc=[0.5])])
    assert set(without["intended_pct"]) == set(without["total_pct"]) == set()
    assert set(without["unintended_pct"]) == {"bc-aligner", "fix-m0"}


def test_a_paired_difference_varies_less_than_either_figure(noise):
    recall = 0.3 + 0.02 * noise[0]
    parts = [
        replicates("no-bc", recall=recall, auc=0.6 + 0.01 * noise[1]),
        replicates("fix-m0", recall=0.2 + 0.02 * noise[0], auc=0.8 + 0.01 * noise[1]),
        replicates("a", recall=0.99 * recall, auc=0.79 + 0.01 * noise[1]),
        replicates("b", recall=0.98 * recall, auc=0.79 + 0.01 * noise[1]),
    ]
    rows = [
        row("a", intended_pct=-1.0, unintended_pct=-1.25, total_pct=-2.25),
        row("b", intended_pct=-2.0, unintended_pct=-1.25, total_pct=-3.25),
    ]
    by_figure = {pair.figure: pair for pair in pairs(compared(rows, parts))}
    intended = by_figure["intended_pct"]
    assert (intended.first, intended.second) == ("a", "b")
    assert intended.difference == pytest.approx(1)
    assert intended.interval == pytest.approx((1, 1))
    assert intended.significant
    assert not by_figure["unintended_pct"].significant
    assert by_figure["total_pct"].significant
    low, high = interval(recall)
    assert high - low > 0.05  # of either alone


def test_equal_methods_do_not_differ_significantly(noise):
    parts = [
        replicates(name, recall=0.3 + 0.02 * noise[0], auc=0.7 + 0.01 * noise[1])
        for name in ("no-bc", "fix-m0", "a", "b")
    ]
    rows = [row(part.method, intended_pct=0, unintended_pct=0, total_pct=0) for part in parts]
    found = pairs(compared(rows, parts))
    assert len(found) == 3 * 6
    assert all(pair.interval == (0, 0) and not pair.significant for pair in found)


def test_a_method_without_a_figure_is_in_no_pair(noise):
    parts = [replicates(name, recall=0.3 + 0.02 * noise[0]) for name in ("no-bc", "a", "b")]
    rows = [row("no-bc", intended_pct=0.0), row("a", intended_pct=0.0), row("b")]
    found = pairs(compared(rows, parts))
    assert [(pair.first, pair.second, pair.figure) for pair in found] == [
        ("no-bc", "a", "intended_pct")
    ]
    # Pairs stand in the order of the table.
    assert [pair.first for pair in pairs(compared(rows[::-1], parts))] == ["a"]


@pytest.mark.parametrize(
    ("bounds", "significant"),
    [((0.1, 2.0), True), ((-2.0, -0.1), True), ((-0.1, 2.0), False), ((0.0, 2.0), False)],
)
def test_a_difference_is_significant_if_zero_lies_outside(bounds, significant):
    pair = Pair(first="a", second="b", figure="total_pct", difference=1.0, interval=bounds)
    assert pair.significant is significant
    assert replace(pair, interval=(-bounds[1], -bounds[0])).significant is significant
