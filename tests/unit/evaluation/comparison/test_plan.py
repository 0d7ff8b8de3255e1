"""What a comparison runs, by profile and flags."""

from dataclasses import replace

import pytest

from backstay.compat.methods import METHODS
from backstay.errors import UsageError
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.consumers.training import FAST as FAST_CONSUMERS
from backstay.training.config import FAST


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ("magic",)}, "magic"),
        ({"methods": ("no-bc", "no-bc")}, "different"),
        ({"dims": (8, 8), "slices": (0.5, 0.6)}, "slice"),
        ({"slices": (0.6, 0.5, 0.7)}, "rise"),
        ({"epochs": -1}, "epochs"),
        ({"seeds": 0}, "seeds"),
    ],
)
def test_an_invalid_plan_is_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        ComparePlan.of("fast", **changes)


def test_the_paper_profile_is_the_published_protocol():
    plan = ComparePlan.of("paper")
    assert plan.dims == (256, 320, 384, 448, 512)
    assert plan.layers == (2, 2, 3, 3, 3)
    assert (plan.fit.epochs, plan.fit.evaluate_every, plan.fit.weight) == (500, 10, 16.0)
    assert not plan.fit.solve_maps
    assert plan.consumers.seeds == 10


def test_all_methods_are_compared_unless_some_are_named():
    assert ComparePlan.of("fast").methods == ComparePlan.of("paper").methods == tuple(METHODS)
    assert ComparePlan.of("fast", methods=("no-bc",)).methods == ("no-bc",)


def test_one_flag_sets_the_versions():
    plan = ComparePlan.of("fast", dims=(8, 9, 10), layers=(1,), epochs=2)
    assert (plan.slices, plan.layers) == ((0.5, 0.6, 0.7, 0.8), (1, 1, 1))
    assert ComparePlan.of("paper", slices=(0.2, 0.4, 0.6)).dims == (256, 320)


def test_each_length_has_a_flag_and_the_others_stay_or_follow_in_proportion():
    plain = ComparePlan.of("fast")
    assert (plain.fit, plain.consumers) == (FAST, FAST_CONSUMERS)
    plan = ComparePlan.of(
        "fast",
        epochs=5,
        evaluate_every=3,
        tuning_epochs=7,
        map_epochs=8,
        consumer_epochs=9,
        widths=(4, 8),
        dropouts=(0.1,),
        seeds=2,
        weight=0.0,
        seed=0,
    )
    assert plan.fit == replace(FAST.scaled(5), evaluate_every=3, weight=0.0, seed=0)
    assert plan.consumers == replace(
        FAST_CONSUMERS, epochs=9, widths=(4, 8), dropouts=(0.1,), seeds=2
    )
    version = plan.version("finetune", 1)
    assert (version.tuning_epochs, version.map_epochs) == (7, 8)
    assert (version.dim, version.layers, version.method) == (160, 2, METHODS["finetune"])
    assert plain.version("finetune", 1).tuning_epochs is None
