"""What an update breaks: flipped decisions, maps that stretch or lose, and who is hit hardest."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backstay.datasets.timeline import Step
from backstay.errors import UsageError
from backstay.evaluation.metrics.alignment import Floats

CHANCE = 0.5
"""ROC-AUC of a consumer that knows nothing."""


@dataclass(frozen=True)
class FlipRates:
    """Shares of all examples on which a consumer's decision changed, each in [0, 1]."""

    negative: float  # right before, wrong now
    positive: float  # wrong before, right now


def flip_rates(
    old: npt.NDArray[np.floating], new: npt.NDArray[np.floating], labels: npt.NDArray[np.bool_]
) -> FlipRates:
    """How one consumer's decisions changed (arXiv 2011.09161).

    Args:
        old: (n,) logits on the vectors it was trained for; above 0 it decides for a positive.
        new: (n,) logits on the vectors that replace them.
        labels: (n,) the truth.
    """
    if not old.shape == new.shape == labels.shape or not len(labels):
        raise UsageError(
            "expected an old and a new logit for each label, at least one; "
            f"found {len(old)}, {len(new)} and {len(labels)}."
        )
    was_right, is_right = ((logits > 0) == labels for logits in (old, new))
    return FlipRates(
        negative=float(np.mean(was_right & ~is_right)),
        positive=float(np.mean(~was_right & is_right)),
    )


def retention(new_auc: float, old_auc: float) -> float | None:
    """The share of ROC-AUC above chance that is left; None where there was none to keep."""
    return (new_auc - CHANCE) / (old_auc - CHANCE) if old_auc > CHANCE else None


@dataclass(frozen=True)
class Spectrum:
    """What a matrix does to lengths."""

    norm: float  # spectral: the greatest factor by which it stretches a vector
    condition: float | None  # greatest by least singular value; None: rank-deficient


def spectrum(matrix: npt.NDArray[np.floating]) -> Spectrum:
    """The spectral norm and condition number of a (D_target, D_source) matrix.

    Of its min(D_target, D_source) singular values. It is rank-deficient where the least can't be
    told from zero in the matrix's own precision.
    """
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    greatest, least = float(values[0]), float(values[-1])
    zero = greatest * max(matrix.shape) * np.finfo(matrix.dtype).eps
    return Spectrum(greatest, greatest / least if least > zero else None)


def error_by_slice(
    distances: Floats, step: Step, *, known_users: int, known_items: int
) -> dict[str, float]:
    """The mean distance of the entities of each slice that has any, see `SLICES_OF_ENTITIES`.

    Args:
        distances: (n_users + n_items,) of the step's entities, see `alignment.distances`.
        step: whose training edges tell the head of the catalogue from its tail.
        known_users: how many users version 0 knew: `n_known_users` of step 0.
        known_items: how many items version 0 knew.
    """
    if len(distances) != step.n_users + step.n_items:
        raise UsageError(
            f"expected the distances of {step.n_users} users and {step.n_items} items, "
            f"found {len(distances)}."
        )
    users, items = distances[: step.n_users], distances[step.n_users :]
    known = step.n_known_items
    popularity = np.bincount(step.train.items, minlength=step.n_items)[:known]
    by_popularity = np.argsort(-popularity, kind="stable")  # equal ones: by first appearance
    slices = {
        "users": users,
        "items": items,
        "head_items": items[by_popularity[: -(-known // 10)]],
        "tail_items": items[by_popularity[known - known // 2 :]],
        "new": np.concatenate([users[known_users:], items[known_items:]]),
    }
    return {name: float(part.mean()) for name, part in slices.items() if len(part)}
