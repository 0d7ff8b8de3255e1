"""The answer of a search: the best weight and the front."""

from types import SimpleNamespace

import pytest

from backstay.engines.search import BASELINES, report_of
from backstay.evaluation.comparison.results import Summary


def report(*costs):
    """The report of trials with these costs, (intended, unintended) in percent, λ = 1, 2, …."""
    rows = [
        Summary(
            method=f"λ = {n}",
            intended_recall50=0.3,
            intended_pct=intended,
            unintended_auc=0.7,
            unintended_pct=unintended,
            total_pct=None if None in {intended, unintended} else intended + unintended,
            alignment_error=0.1,
            fit_seconds=1.0,
            peak_rss_mb=1.0,
        )
        for n, (intended, unintended) in enumerate(costs, 1)
    ]
    merged = SimpleNamespace(summary=[*BASELINES, *rows])
    parts = [
        SimpleNamespace(protocol={"fit": {"weight": float(n)}}) for n in range(1, len(costs) + 1)
    ]
    return report_of(merged, parts, method="bc-aligner", out="out")


@pytest.mark.parametrize("order", [1, -1])
def test_a_trial_that_costs_nothing_is_the_best(order):
    found = report(*[(-1.0, -1.0), (0.0, 0.0), (2.0, -3.0)][::order])
    assert found.best_weight == 2.0
    assert [trial.on_front for trial in found.trials] == [False, True, True][::order]


@pytest.mark.parametrize("unmeasured", [(None, 0.0), (0.0, None), (None, None), (9.0, None)])
def test_an_unmeasured_trial_is_off_the_front_and_pushes_none_off(unmeasured):
    found = report((-1.0, -1.0), unmeasured, (-2.0, -3.0))
    assert [trial.on_front for trial in found.trials] == [True, False, False]
    assert found.best_weight == 1.0


def test_without_a_measured_trial_there_is_no_best_weight():
    found = report((None, 1.0))
    assert found.best_weight is None
    assert not found.trials[0].on_front
