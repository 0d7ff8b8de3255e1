import numpy as np
import pytest

from backstay.evaluation.results import Record
from backstay.evaluation.uncertainty import Uncertainty, uncertainties


def test_users_are_averaged_over_versions_and_seeds_are_paired(results):
    found = uncertainties(results.records)
    recall = np.mean([0.25, 0.27, 0.29, 0.31, 0.33])
    over_users = 100 * np.sqrt(4 * 0.01**2) / 5 / recall
    assert found["bc-aligner"].intended_pct == pytest.approx(over_users)
    shares = 4.0 * np.array([0.9, 1.0, 1.1])
    over_seeds = np.std(shares, ddof=1) / np.sqrt(3)
    assert found["bc-aligner"].unintended_pct == pytest.approx(over_seeds)
    assert found["bc-aligner"].total_pct == pytest.approx(np.hypot(over_users, over_seeds))


def test_a_baseline_is_sure_of_itself(results):
    found = uncertainties(results.records)
    assert found["no-bc"].intended_pct == 0
    assert found["fix-m0"].unintended_pct == 0


def test_what_cannot_be_told_is_none(make_results):
    found = uncertainties(make_results(seeds=1).records)
    assert found["bc-aligner"].unintended_pct is None
    assert found["bc-aligner"].total_pct is None
    assert found["bc-aligner"].intended_pct is not None
    lone = Record(
        method="x", version=0, task="recommendation", metric="recall@50", seed=0, value=0.1
    )
    assert uncertainties([lone]) == {"x": Uncertainty(intended_pct=None, unintended_pct=None)}
