"""ROC-AUC by ranks."""

import numpy as np
import numpy.typing as npt

from backstay.errors import TrainingError, UsageError


def roc_auc(scores: npt.NDArray[np.floating], labels: npt.NDArray[np.bool_]) -> float:
    """The probability that a positive scores above a negative; ties count half.

    Raises UsageError if all labels (n,) are of one class, TrainingError if a score (n,) is NaN.
    """
    scores, labels = checked(scores, labels)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    _, level, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Tied scores share the mean of their ranks 1 … n (Mann and Whitney's U).
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[level]
    wins = ranks[labels].sum() - positives * (positives + 1) / 2
    return float(wins / positives / negatives)


def checked(
    scores: npt.NDArray[np.floating], labels: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
    """Scores and labels whose ROC-AUC is defined; raises the errors of `roc_auc` otherwise."""
    scores, labels = np.asarray(scores), np.asarray(labels, np.bool_)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise UsageError(
            f"expected one score a label, found shapes {scores.shape} and {labels.shape}."
        )
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise UsageError(
            "ROC-AUC needs positive and negative examples; "
            f"found {positives} positive and {negatives} negative ones."
        )
    if np.isnan(scores).any():
        raise TrainingError(
            "found scores that are not a number: the consumer's training has diverged."
        )
    return scores, labels
