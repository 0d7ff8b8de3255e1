"""Compatibility of an update: flipped decisions, retention, map spectra, errors by slice."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backstay.datasets.timeline import Step
from backstay.errors import UsageError
from backstay.evaluation.metrics.alignment import Floats

CHANCE = 0.5
"""ROC-AUC of a random guess."""

SLICES_OF_ENTITIES = ("users", "items", "head_items", "tail_items", "new")
"""Users; items; the 10 % of known items with most training interactions; the 50 % with fewest;
users and items that did not exist when version 0 was trained."""


@dataclass(frozen=True)
class FlipRates:
    """Shares of all examples on which a consumer's decision changed, each in [0, 1]."""

    negative: float  # right before, wrong now
    positive: float  # wrong before, right now


def flip_rates(
    old: npt.NDArray[np.floating], new: npt.NDArray[np.floating], labels: npt.NDArray[np.bool_]
) -> FlipRates:
    """How often one consumer's decisions changed (arXiv 2011.09161).

    `old` and `new` are its logits (n,) on the vectors it was trained for and on their replacements;
    a logit above 0 predicts a positive.
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
    """The share of the ROC-AUC above 0.5 that remains; None if the old one was not above 0.5."""
    return (new_auc - CHANCE) / (old_auc - CHANCE) if old_auc > CHANCE else None


@dataclass(frozen=True)
class Spectrum:
    """Spectral norm and condition number of a matrix."""

    norm: float  # greatest singular value: the most by which the matrix stretches a vector
    condition: float | None  # greatest over least singular value; None: rank-deficient


def spectrum(matrix: npt.NDArray[np.floating]) -> Spectrum:
    """The spectral norm and condition number of a (D_target, D_source) matrix.

    It has min(D_target, D_source) singular values. It counts as rank-deficient if the least one is
    zero within the precision of the matrix's dtype.
    """
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    greatest, least = float(values[0]), float(values[-1])
    zero = greatest * max(matrix.shape) * np.finfo(matrix.dtype).eps
    return Spectrum(greatest, greatest / least if least > zero else None)


def error_by_slice(
    distances: Floats, step: Step, *, known_users: int, known_items: int
) -> dict[str, float]:
    """The mean distance in each slice of `SLICES_OF_ENTITIES` that has entities.

    `distances` (n_users + n_items,) are those of the step's entities; `known_users` and
    `known_items` are the numbers of users and items that version 0 was trained on.
    """
    if len(distances) != step.n_users + step.n_items:
        raise UsageError(
            f"expected the distances of {step.n_users} users and {step.n_items} items, "
            f"found {len(distances)}."
        )
    users, items = distances[: step.n_users], distances[step.n_users :]
    known = step.n_known_items
    popularity = np.bincount(step.train.items, minlength=step.n_items)[:known]
    by_popularity = np.argsort(-popularity, kind="stable")  # ties in order of first appearance
    slices = {
        "users": users,
        "items": items,
        "head_items": items[by_popularity[: -(-known // 10)]],
        "tail_items": items[by_popularity[known - known // 2 :]],
        "new": np.concatenate([users[known_users:], items[known_items:]]),
    }
    return {name: float(part.mean()) for name, part in slices.items() if len(part)}
