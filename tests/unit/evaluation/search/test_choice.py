"""The rule that chooses a trial."""

from dataclasses import replace

import pytest

from backstay.evaluation.comparison.results import Summary
from backstay.evaluation.search.choice import choose


def row(name, intended, unintended, interval=None):
    total = None if None in (intended, unintended) else intended + unintended
    return replace(
        Summary.blank(name),
        intended_pct=intended,
        unintended_pct=unintended,
        total_pct=total,
        unintended_interval=interval,
    )


def test_the_best_recommendation_among_those_surely_within_the_tolerance():
    rows = [
        row("risky", -0.5, -1.0, (-2.5, 0.5)),  # perhaps beyond it
        row("careful", -4.0, -0.2, (-0.4, 0.0)),
        row("good", -2.0, -1.5, (-1.9, -1.1)),
    ]
    best, within = choose(rows)
    assert (best.method, within) == ("good", True)
    assert choose(rows, tolerance=3.0)[0].method == "risky"


def test_the_least_sure_loss_where_none_is_within():
    best, within = choose([row("a", 0.0, -9.0, (-12, -6)), row("b", -5.0, -4.0, (-6, -2))])
    assert (best.method, within) == ("b", False)


def test_the_best_sum():
    rows = [row("a", 0.0, -1.0, (-1.5, -0.5)), row("b", 3.0, -2.5, (-3, -2))]
    best, within = choose(rows, rule="best-sum")
    assert (best.method, within) == ("b", False)


def test_the_figure_itself_counts_without_an_interval():
    assert choose([row("a", 0.0, -2.1), row("b", -1.0, -1.9)])[0].method == "b"


@pytest.mark.parametrize("rule", ["least-intended-cost", "best-sum"])
def test_unmeasured_rows_are_left_out(rule):
    assert choose([row("a", None, 0.0), row("b", 1.0, None)], rule=rule) == (None, False)
    assert choose([row("a", None, 0.0), row("c", -9.0, 0.0)], rule=rule)[0].method == "c"
