from dataclasses import replace

import pytest

from backstay.evaluation.analysis.groups import Order, groups
from backstay.evaluation.analysis.significance import pairs
from backstay.evaluation.comparison.results import Replicates
from tests.support.made_up_results import made_up_results


def order_of(results):
    return Order.of(results.summary, pairs(results))


def moved(results, method, *, by=0.0, spread=None):
    """The method's replicates scattered again."""
    row = next(row for row in results.summary if row.method == method)
    count = len(results.replicates[0].recall)
    share = [by + (spread or 0.0) * (place / count - 0.5) for place in range(count)]
    own = Replicates(
        method=method,
        recall=tuple(row.intended_recall50 * (1 + part) for part in share),
        auc=tuple([row.unintended_auc] * count),
    )
    others = [part for part in results.replicates if part.method != method]
    return replace(results, replicates=(*others, own))


def test_groups_are_ordered_and_their_methods_are_not(results):
    made = groups(order_of(results))
    assert made[0].methods == ("backstay",)
    assert made[1].methods == ("joint-linear-single", "bc-aligner", "posthoc-ridge")
    assert made[1].alike
    assert made[-1].methods == ("no-bc",)
    assert not made[-1].alike
    names = [method for group in made for method in group.methods]
    assert sorted(names) == sorted(row.method for row in results.summary)
    order = order_of(results)
    for place, group in enumerate(made):
        for later in made[place + 1 :]:
            assert all(
                order.is_better(ours, theirs) for ours in group.methods for theirs in later.methods
            )


def test_a_method_between_two_others_keeps_them_in_one_group():
    """a and c differ significantly, b differs from neither: they stay in one group."""
    named = ("fix-m0", "no-bc", "posthoc-ridge", "bc-aligner", "backstay")
    results = moved(made_up_results(methods=named), "bc-aligner", spread=1.0)
    group = groups(order_of(results))[0]
    assert {"posthoc-ridge", "bc-aligner", "backstay"} <= set(group.methods)
    assert ("backstay", "posthoc-ridge") in group.apart
    assert not group.alike


def test_without_replicates_no_methods_differ(results):
    (group,) = groups(order_of(replace(results, replicates=())))
    assert group.methods == tuple(row.method for row in results.summary)
    assert group.alike


@pytest.mark.parametrize("methods", [("bc-aligner",), ("fix-m0", "bc-aligner")])
def test_without_baselines_there_are_no_groups(methods):
    assert groups(order_of(made_up_results(methods=methods))) == ()
