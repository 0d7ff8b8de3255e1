import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from backstay.errors import TrainingError, UsageError
from backstay.evaluation.metrics.roc_auc import roc_auc


def slow_auc(scores, labels):
    pairs = [(p, n) for p in scores[labels] for n in scores[~labels]]
    return sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_is_the_share_of_pairs_in_order(rows):
    scores = np.array([score for score, _ in rows], np.float32)
    labels = np.array([label for _, label in rows])
    if labels.all() or not labels.any():
        with pytest.raises(UsageError, match="positive and negative"):
            roc_auc(scores, labels)
        return
    assert roc_auc(scores, labels) == pytest.approx(slow_auc(scores, labels), abs=1e-12)
    assert roc_auc(-scores, labels) == pytest.approx(1 - roc_auc(scores, labels), abs=1e-12)
    assert roc_auc(np.exp(scores), labels) == roc_auc(scores, labels)


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize("share", [0.002, 0.3, 0.9])
def test_agrees_with_scikit_learn(decimals, share):
    """On many examples, from nearly all scores tied to none."""
    rng = np.random.default_rng(7)
    labels = rng.random(5_000) < share
    scores = (rng.normal(size=5_000) + 0.5 * labels).round(decimals).astype(np.float32)
    assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_known_answers():
    labels = np.array([False, False, True, True])
    assert roc_auc(np.array([1.0, 2.0, 3.0, 4.0]), labels) == 1
    assert roc_auc(np.array([4.0, 3.0, 2.0, 1.0]), labels) == 0
    assert roc_auc(np.zeros(4), labels) == 0.5
    assert roc_auc(np.array([1.0, 3.0, 2.0, 4.0]), labels) == 0.75


def test_refuses_nan_and_other_lengths():
    with pytest.raises(TrainingError, match="not a number"):
        roc_auc(np.array([0.0, np.nan]), np.array([True, False]))
    with pytest.raises(UsageError, match="one score a label"):
        roc_auc(np.zeros(3), np.array([True, False]))
