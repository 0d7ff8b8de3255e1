"""The configuration of a search."""

from dataclasses import replace

import numpy as np
import pytest

from backstay.engines.search.config import SearchConfig
from backstay.engines.search.trials import settings_of
from backstay.errors import UsageError
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.search.settings import TrialSettings

PLAN = ComparePlan.of("fast", dims=(16, 20, 24, 28))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "no-bc"}, "joint method, found no-bc"),
        ({"weights": (1.0,), "trials": 3}, "either --weights, or --trials"),
        ({"weights": (1.0,), "minutes": 3.0}, "either --weights, or --trials"),
        ({"weights": (1.0,), "parameters": ("rate",)}, "leave out --search"),
        ({"weights": (-1.0,)}, "from 0 on; found -1"),
        ({"weights": (float("nan"),)}, "from 0 on; found nan"),
        ({"parameters": ("colour",)}, "must be 'weight', 'rate', 'epochs' or 'new-dims'"),
        ({"judged": 3}, "at least 5 versions"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"minutes": 0.0}, "minutes must be more than 0"),
        ({"tolerance": -1.0}, "tolerance must be at least 0"),
        ({"rule": "best"}, "rule must be"),
    ],
)
def test_a_search_that_can_not_be_is_refused_before_it_begins(options, message):
    with pytest.raises(UsageError, match=message):
        SearchConfig(plan=PLAN, **options)


def test_the_last_windows_are_not_for_the_search():
    assert SearchConfig(plan=PLAN).cut == 2
    assert SearchConfig(plan=PLAN, judged=2).cut == 1


def test_only_the_number_of_workers_may_differ_between_two_runs_of_one_search():
    config = SearchConfig(plan=PLAN)
    assert replace(config, workers=2).identity() == config.identity()
    for change in (
        {"trials": 3},
        {"rule": "best-sum"},
        {"judged": 2},
        {"method": "joint-identity"},
    ):
        assert replace(config, **change).identity() != config.identity()


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 10), ({"trials": 4}, 4), ({"minutes": 5.0}, None), ({"weights": (1.0,)}, 0)],
)
def test_how_many_trials_the_sampler_chooses(options, expected):
    assert SearchConfig(plan=PLAN, **options).searched == expected


def test_sampled_numbers_become_plain_ones():
    sampled = {"weight": np.float64(0.5), "epochs": np.int64(4), "new_dims": None}
    found = settings_of(sampled)
    assert found == TrialSettings(weight=0.5, epochs=4)
    assert type(found.epochs) is int
