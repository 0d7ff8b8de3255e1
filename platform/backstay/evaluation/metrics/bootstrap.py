"""Paired bootstrap: every figure of every method is computed on the same resamples.

A replicate draws users, items and consumer seeds with replacement. The counts depend only on the
resamples' seed, the replicate's number and the unit. They do not depend on the method, so
differences between methods are paired. They do not depend on the version or the task either, so
all examples of a user are drawn together (a cluster bootstrap by user). This works because users
and items keep their indices along the timeline.

A unit's count is Poisson(1), the limit of drawing n of n units with replacement. It is independent
of which other units exist.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, factorial
from typing import Literal
from zlib import crc32

import numpy as np
import numpy.typing as npt

from backstay.errors import UsageError
from backstay.evaluation.metrics.alignment import Floats
from backstay.evaluation.metrics.roc_auc import checked

REPLICATES = 200
"""Number of replicates."""

LEVEL = 0.95
"""Share of the replicates that an interval covers."""

Interval = tuple[float, float]
"""Bounds of the middle 95 % of the bootstrap replicates."""

UnitKind = Literal["user", "item"]

BLOCK_COUNTS = 1 << 20  # counts held at once: replicates × examples


@dataclass(frozen=True)
class Units:
    """The user or item of each example. A replicate draws all examples of a unit or none."""

    kind: UnitKind
    index: npt.NDArray[np.integer]  # (n,) user or item index of each example


@dataclass(frozen=True, kw_only=True)
class Resamples:
    """How often each replicate draws each unit: computed from the seed on demand."""

    seed: int = 0
    count: int = REPLICATES  # B

    def blocks(self, units: Units) -> Iterator[tuple[slice, npt.NDArray[np.uint8]]]:
        """Blocks of replicates: which ones, and how often each draws each example, (b, n) uint8."""
        drawn = int(units.index.max(initial=-1)) + 1
        rows = max(1, BLOCK_COUNTS // max(drawn, len(units.index), 1))
        for start in range(0, self.count, rows):
            block = range(start, min(start + rows, self.count))
            counts = np.stack([self._counts(units.kind, b, drawn) for b in block])
            yield slice(block.start, block.stop), counts.take(units.index, axis=1)

    def seeds(self, task: str, count: int) -> npt.NDArray[np.intp]:
        """The consumer seeds that each replicate draws from `count` seeds of a task: (B, count).

        Two tasks have different consumer models, so each task has draws of its own.
        """
        generator = np.random.default_rng((self.seed, crc32(task.encode())))
        return generator.integers(0, count, (self.count, count))

    def _counts(self, kind: UnitKind, replicate: int, units: int) -> npt.NDArray[np.uint8]:
        """(units,) uint8; more units extend the counts of fewer units."""
        generator = np.random.default_rng((self.seed, crc32(kind.encode()), replicate))
        return _POISSON[generator.integers(0, len(_POISSON), units, dtype=np.uint16)]


def _poisson_table() -> npt.NDArray[np.uint8]:
    """Poisson(1) by inverse distribution at 2¹⁶ levels: (65536,) uint8, none above 8."""
    chances = [exp(-1) / factorial(k) for k in range(9)]
    upper = np.rint(np.cumsum(chances) * (1 << 16)).astype(np.int64)
    upper[-1] = 1 << 16
    return np.repeat(np.arange(len(upper), dtype=np.uint8), np.diff(upper, prepend=0))


_POISSON = _poisson_table()


def mean_replicates(values: Floats, units: Units, resamples: Resamples) -> Floats:
    """The mean of `values` (n,) in every replicate: (B,), NaN where it draws none of them."""
    if values.shape != units.index.shape:
        raise UsageError(f"expected one unit a value, found {len(units.index)} and {len(values)}.")
    found = np.empty(resamples.count)
    for replicates, counts in resamples.blocks(units):
        # einsum and not a matrix product: a row's sum does not depend on the block's size.
        totals = np.einsum("bn,n->b", counts, values)
        found[replicates] = _ratio(totals, counts.sum(axis=1, dtype=np.int64))
    return found


def auc_replicates(
    scores: npt.NDArray[np.floating],
    labels: npt.NDArray[np.bool_],
    units: Units,
    resamples: Resamples,
) -> Floats:
    """`roc_auc` in every replicate, of the examples (n,) repeated as drawn: (B,).

    A replicate that draws one class only has no ROC-AUC: NaN. It is the same replicates for every
    method, which share labels and units. Sorts once, then takes O(n) per replicate.
    """
    scores, labels = checked(scores, labels)
    if scores.shape != units.index.shape:
        raise UsageError(f"expected one unit a score, found {len(units.index)} and {len(scores)}.")
    positives, negatives = (
        rows[np.argsort(scores[rows])] for rows in (np.flatnonzero(labels), np.flatnonzero(~labels))
    )
    # Per positive: the number of negatives with a lower score, and with a score no higher.
    less, no_more = (
        np.searchsorted(scores[negatives], scores[positives], side=side)
        for side in ("left", "right")
    )
    split = len(positives)
    in_order = Units(units.kind, units.index[np.concatenate([positives, negatives])])
    found = np.empty(resamples.count)
    for replicates, counts in resamples.blocks(in_order):
        above, below = counts[:, :split], counts[:, split:]
        before = np.zeros((len(counts), len(negatives) + 1), np.int32)
        np.cumsum(below, axis=1, dtype=np.int32, out=before[:, 1:])
        beaten = before.take(less, axis=1)
        beaten += before.take(no_more, axis=1)  # doubled, so that a tie's half is an integer
        twice = np.einsum("bn,bn->b", above, beaten, dtype=np.int64)
        pairs = above.sum(axis=1, dtype=np.int64) * before[:, -1]
        found[replicates] = _ratio(twice, 2 * pairs)
    return found


def mean_over_seeds(replicates: Floats, *, task: str, resamples: Resamples) -> Floats:
    """The mean over the consumer seeds that each replicate draws: (S, B) of a task -> (B,)."""
    drawn = resamples.seeds(task, len(replicates))
    return np.asarray(replicates[drawn.T, np.arange(resamples.count)].mean(axis=0))


def interval(values: Sequence[float] | Floats) -> Interval:
    """Bounds of the middle 95 % of the replicates, all of which are defined."""
    low, high = np.quantile(np.asarray(values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def defined_interval(replicates: Floats) -> Interval | None:
    """The interval of the replicates (B,) that are not NaN; None if fewer than half are defined."""
    defined = replicates[np.isfinite(replicates)]
    return interval(defined) if len(defined) and 2 * len(defined) >= len(replicates) else None


def _ratio(above: npt.NDArray[np.generic], below: npt.NDArray[np.generic]) -> Floats:
    """Elementwise quotient; NaN where the divisor is 0."""
    found = np.full(len(below), np.nan)
    np.divide(above, below, out=found, where=below != 0)
    return found
