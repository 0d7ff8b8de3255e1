from dataclasses import replace

import numpy as np
import pytest

from backstay.errors import UsageError
from backstay.training.config import FAST, PAPER, RECIPES, FitConfig


def test_the_paper_s_recipe_is_the_paper_s():
    """Every field, so that none that comes later slips in unseen."""
    assert vars(PAPER) == {
        "epochs": 500,
        "batch_size": 2048,
        "learning_rate": 1e-3,
        "regularisation": 1e-2,
        "weight": 16.0,
        "evaluate_every": 10,
        "selection_starts_after": 0.1,
        "keep": "best",
        "seed": 42,
        "sampling": "full",
        "schedule": "constant",
        # Nothing of ours.
        "negatives": 0,
        "average": 0.0,
        "most_steps": None,
        "warm_start": False,
        "warm_epochs": None,
        "extension_epochs": None,
        "warm_rate": None,
        "map_rate": None,
        "solve_maps": False,
        "table_scale": 1.0,
        "output_scale": 1.0,
        # Without a meaning for whole graphs.
        "fan_out": PAPER.fan_out,
        "groups": PAPER.groups,
        "group_size": PAPER.group_size,
    }


def test_recipes_are_found_by_name():
    assert RECIPES == {"fast": FAST, "paper": PAPER}
    assert FAST != PAPER
    assert FAST.seed == PAPER.seed
    assert FAST.samples(10**7)
    assert not PAPER.samples(10**7)


@pytest.mark.parametrize(
    "field",
    [
        *("epochs", "warm_epochs", "extension_epochs", "most_steps", "batch_size"),
        *("evaluate_every", "fan_out", "groups", "group_size"),
    ],
)
def test_a_count_below_one_is_refused(field):
    with pytest.raises(UsageError, match=f"{field} must be at least 1, found 0"):
        FitConfig(**{field: 0})


@pytest.mark.parametrize(
    "field", ["learning_rate", "warm_rate", "map_rate", "regularisation", "weight"]
)
@pytest.mark.parametrize("value", [-1e-3, np.nan, np.inf])
def test_a_rate_that_is_negative_or_not_finite_is_refused(field, value):
    with pytest.raises(
        UsageError, match=f"{field} must be (at least 0|a finite number), found {value}"
    ):
        FitConfig(**{field: value})


def test_fewer_than_no_negatives_are_refused():
    with pytest.raises(UsageError, match="negatives must be at least 0, found -1"):
        FitConfig(negatives=-1)


@pytest.mark.parametrize("value", [-0.1, 1.0, np.nan])
def test_an_average_that_never_moves_is_refused(value):
    with pytest.raises(
        UsageError, match=f"average must be (at least 0|less than 1|a finite number), found {value}"
    ):
        FitConfig(average=value)


@pytest.mark.parametrize(
    ("sampling", "small", "large"),
    [("auto", False, True), ("full", False, False), ("neighbours", True, True)],
)
def test_large_snapshots_are_sampled_or_as_it_is_asked_for(sampling, small, large):
    config = FitConfig(sampling=sampling)
    assert config.samples(1_000) == small
    assert config.samples(1_000_000) == large


# The schedule


def test_a_constant_rate_is_constant():
    config = FitConfig(learning_rate=0.3)
    assert {config.rate(progress) for progress in np.linspace(0, 1, 11)} == {0.3}


@pytest.mark.parametrize(
    ("progress", "share"),
    [
        (0.0, 0.05),
        (0.05, 0.525),  # half way up
        (0.1, 1.0),  # the top
        (0.325, 0.05 + 0.95 * (1 + 0.5**0.5) / 2),  # a quarter of the way down: cos 45°
        (0.55, 0.525),
        (1.0, 0.05),
    ],
)
def test_the_cosine_rises_shortly_and_falls_long(progress, share):
    config = FitConfig(schedule="cosine", learning_rate=0.2)
    assert config.rate(progress) == pytest.approx(0.2 * share)


def test_the_cosine_rises_then_falls_and_stays_in_its_bounds():
    config = FitConfig(schedule="cosine", learning_rate=0.2)
    rates = [config.rate(progress) for progress in np.linspace(0, 1, 1001)]
    assert min(rates) > 0
    assert max(rates) == 0.2
    top = rates.index(0.2)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


# The same, for other occasions


def test_another_number_of_epochs_holds_whatever_the_fit_begins_with():
    config = FitConfig(epochs=100, warm_epochs=50, extension_epochs=200, evaluate_every=10)
    assert config.lasting(None) is config
    shorter = config.lasting(4)
    for fit in (shorter, shorter.warm(), shorter.extending()):
        assert (fit.epochs, fit.evaluate_every) == (4, 4)
    assert config.lasting(30) == replace(config, epochs=30, warm_epochs=None, extension_epochs=None)


def test_other_beginnings_may_last_in_proportion():
    config = FitConfig(epochs=10, warm_epochs=6, extension_epochs=20, evaluate_every=1)
    assert config.scaled(None) is config
    assert config.scaled(2) == replace(config, epochs=2, warm_epochs=2, extension_epochs=4)
    assert FitConfig(epochs=10).scaled(5) == FitConfig(epochs=5, evaluate_every=5)


def test_building_onto_the_version_before_may_take_longer_and_as_many_steps_more():
    config = FitConfig(epochs=10, extension_epochs=25, most_steps=101)
    extending = config.extending()
    assert extending == replace(config, epochs=25, most_steps=253)
    assert config.steps(10**6, sampled=False)[1] == 101
    assert extending.steps(10**6, sampled=False)[1] == 253
    assert replace(config, most_steps=None).extending().most_steps is None
    assert FitConfig(epochs=9).extending() == FitConfig(epochs=9)


def test_a_warm_start_may_be_shorter_and_gentler_and_begins_at_its_own_scale():
    config = FitConfig(
        epochs=9, warm_epochs=3, warm_rate=0.0, table_scale=0.3, output_scale=0.2, weight=5.0
    )
    warm = config.warm()
    assert (warm.epochs, warm.learning_rate) == (3, 0.0)
    assert (warm.table_scale, warm.output_scale) == (1, 1)
    assert warm.weight == 5
    assert FitConfig(epochs=9).warm() == FitConfig(epochs=9)


def test_a_map_that_is_fitted_afterwards_has_a_rate_of_its_own_and_keeps_its_best():
    config = FitConfig(epochs=9, learning_rate=0.1, map_rate=0.2, keep="last")
    after = config.afterwards(None)
    assert (after.epochs, after.learning_rate, after.keep) == (9, 0.2, "best")
    assert config.afterwards(5).epochs == 5
    assert replace(config, map_rate=None).afterwards(None).learning_rate == 0.1


@pytest.mark.parametrize(
    ("sampled", "most", "expected"),
    [(False, None, (11, 33)), (True, None, (3, 9)), (True, 4, (3, 4)), (False, 100, (11, 33))],
)
def test_steps_follow_from_edges_epochs_and_the_most_there_may_be(sampled, most, expected):
    config = FitConfig(epochs=3, batch_size=10, groups=4, group_size=10, most_steps=most)
    assert config.steps(101, sampled=sampled) == expected
