"""The settings of trials: names, plans, options."""

from dataclasses import replace

import pytest

from backstay.errors import UsageError
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.search.settings import TrialSettings, distinct_names

PLAN = ComparePlan.of("fast", dims=(16, 20, 24))
FULL = TrialSettings(weight=2.5, rate=0.5, epochs=5, new_dims=8)


def test_settings_change_the_plan_and_nothing_else():
    plan = FULL.plan(PLAN, "bc-aligner")
    assert plan.methods == ("bc-aligner",)
    assert plan.dims == (16, 24, 32)
    assert plan.fit.weight == 2.5
    assert plan.fit.epochs == 5
    assert plan.fit.warm_epochs == 3  # 6 of 10, scaled
    for rate in ("learning_rate", "warm_rate", "map_rate"):
        assert getattr(plan.fit, rate) == getattr(PLAN.fit, rate) / 2
    alike = {
        name: getattr(PLAN.fit, name)
        for name in ("weight", "epochs", "warm_epochs", "extension_epochs", "evaluate_every")
    } | {name: getattr(PLAN.fit, name) for name in ("learning_rate", "warm_rate", "map_rate")}
    assert replace(plan.fit, **alike) == PLAN.fit


def test_settings_left_out_are_the_profiles():
    plan = TrialSettings(weight=PLAN.fit.weight).plan(PLAN, "bc-aligner")
    assert plan == replace(PLAN, methods=("bc-aligner",))


def test_the_options_make_the_same_plan():
    """best.yaml gives `compare` what the trial ran."""
    options = {name.replace("-", "_"): value for name, value in FULL.options().items()}
    made = ComparePlan.of("fast", dims=PLAN.dims, methods=("bc-aligner",), **options)
    assert made == FULL.plan(PLAN, "bc-aligner")


def test_different_settings_have_different_names_and_folders():
    close = [TrialSettings(weight=1.0001), TrialSettings(weight=1.0002), FULL]
    names = distinct_names(close)
    assert list(names.values()) == [
        "λ = 1",
        "λ = 1 (2)",
        "λ = 2.5, rate × 0.5, 5 epochs, +8 dimensions",
    ]
    assert len({settings.folder for settings in close}) == 3
    assert FULL.folder == replace(FULL).folder


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_there_can_not_be_is_refused(weight):
    with pytest.raises(UsageError, match=f"found {weight}"):
        TrialSettings(weight=weight)
