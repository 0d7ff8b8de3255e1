"""Paired bootstrap: every figure of every method on the same resampled users and items.

Replicate b counts each user, each item and each consumer seed some number of times. The counts
depend on the resamples' seed, on b and on the unit alone: not on the method, so differences
between methods are paired, and neither on the version nor on the task, so what a user does at all
versions and in all tasks is drawn together (a cluster bootstrap by user). That is possible as users
and items keep their indices along the timeline.

A unit's count is Poisson(1): the limit of drawing n of n units with replacement, and independent of
which other units there are. The edges of a user are drawn together.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import exp, factorial
from typing import Literal, Self
from zlib import crc32

import numpy as np
import numpy.typing as npt

from backstay.errors import UsageError
from backstay.evaluation.analysis.significance import Floats, interval
from backstay.evaluation.comparison.results import Interval, Replicates
from backstay.evaluation.consumers.labels import Examples
from backstay.evaluation.metrics.roc_auc import checked

REPLICATES = 200
"""How many times everything is resampled."""

_BLOCK_COUNTS = 1 << 20  # counts held at once: replicates by examples

UnitKind = Literal["user", "item"]


@dataclass(frozen=True)
class Units:
    """Whose examples some examples are: what is drawn, with all of its examples or none."""

    kind: UnitKind
    index: npt.NDArray[np.integer]  # (n,) of the user or item, one per example

    @classmethod
    def of(cls, examples: Examples) -> Self:
        """The users of labelled examples, or their items where there is no user."""
        if examples.users is not None:
            return cls("user", examples.users)
        if examples.items is not None:
            return cls("item", examples.items)
        raise UsageError("expected examples of users or of items, found neither.")


@dataclass(frozen=True, kw_only=True)
class Resamples:
    """How often each replicate draws each unit: a function of the seed, made when asked for."""

    seed: int = 0
    count: int = REPLICATES  # B

    def blocks(self, units: Units) -> Iterator[tuple[slice, npt.NDArray[np.uint8]]]:
        """Some replicates at a time: which, and how often each example is drawn, (b, n) uint8."""
        drawn = int(units.index.max(initial=-1)) + 1
        rows = max(1, _BLOCK_COUNTS // max(drawn, len(units.index), 1))
        for start in range(0, self.count, rows):
            block = range(start, min(start + rows, self.count))
            counts = np.stack([self._counts(units.kind, b, drawn) for b in block])
            yield slice(block.start, block.stop), counts.take(units.index, axis=1)

    def seeds(self, task: str, count: int) -> npt.NDArray[np.intp]:
        """Which of `count` consumers of a task each replicate has: (B, count) with repetition.

        The consumers of two tasks are different models: tasks are drawn apart.
        """
        generator = np.random.default_rng((self.seed, crc32(task.encode())))
        return generator.integers(0, count, (self.count, count))

    def _counts(self, kind: UnitKind, replicate: int, units: int) -> npt.NDArray[np.uint8]:
        """(units,) uint8; those of fewer units are the first of those of more."""
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
    """The mean of some values in every replicate: (B,), NaN in a replicate that draws none.

    Args:
        values: (n,) such as the recall of each user judged.
        units: whose each value is.
        resamples: what to draw.
    """
    if values.shape != units.index.shape:
        raise UsageError(f"expected one unit a value, found {len(units.index)} and {len(values)}.")
    found = np.empty(resamples.count)
    for replicates, counts in resamples.blocks(units):
        # einsum and not a matrix product: a row's sum is the same in a block of any size.
        totals = np.einsum("bn,n->b", counts, values)
        found[replicates] = _ratio(totals, counts.sum(axis=1, dtype=np.int64))
    return found


def auc_replicates(
    scores: npt.NDArray[np.floating],
    labels: npt.NDArray[np.bool_],
    units: Units,
    resamples: Resamples,
) -> Floats:
    """ROC-AUC in every replicate: (B,), exactly `roc_auc` of the examples as often as drawn.

    Args:
        scores: (n,) higher means more likely positive; ties count half.
        labels: (n,) with at least one of each class.
        units: whose each example is.
        resamples: what to draw.

    A replicate that draws one class only has no ROC-AUC: NaN. Labels and units are the same for
    every method, and so are these replicates. Sorted once; then O(n) a replicate.

    Raises:
        UsageError, TrainingError: as `roc_auc`.
    """
    scores, labels = checked(scores, labels)
    if scores.shape != units.index.shape:
        raise UsageError(f"expected one unit a score, found {len(units.index)} and {len(scores)}.")
    positives, negatives = (
        rows[np.argsort(scores[rows])] for rows in (np.flatnonzero(labels), np.flatnonzero(~labels))
    )
    # Of each positive: how many negatives score less, and how many no more.
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
        beaten += before.take(no_more, axis=1)  # twice, so that a tie's half is whole
        twice = np.einsum("bn,bn->b", above, beaten, dtype=np.int64)
        pairs = above.sum(axis=1, dtype=np.int64) * before[:, -1]
        found[replicates] = _ratio(twice, 2 * pairs)
    return found


def mean_over_seeds(replicates: Floats, *, task: str, resamples: Resamples) -> Floats:
    """The mean over the consumer seeds that each replicate draws: (S, B) of a task -> (B,)."""
    drawn = resamples.seeds(task, len(replicates))
    return np.asarray(replicates[drawn.T, np.arange(resamples.count)].mean(axis=0))


def collect_replicates(
    recalls: Mapping[str, Mapping[int, Floats]],
    aucs: Mapping[str, Mapping[str, Mapping[int, Floats]]],
) -> tuple[Replicates, ...]:
    """The two figures of every method in every replicate, as `figures.mean_over_tasks` takes them.

    Args:
        recalls: method -> version -> (B,) Recall@50.
        aucs: method -> task -> version -> (B,) ROC-AUC, mean over consumer seeds.

    A replicate in which any of them is undefined (NaN) is left out for all methods alike. Where
    that leaves fewer than half, the examples are too few to say how sure the figures are: ().
    """
    figures = {
        method: (
            _mean(recalls.get(method, {}).values()),
            _mean(_mean(versions.values()) for versions in aucs.get(method, {}).values()),
        )
        for method in {**recalls, **aucs}
    }
    parts = [part for pair in figures.values() for part in pair if len(part)]
    if not parts:
        return ()
    defined = np.asarray(np.isfinite(np.stack(parts)).all(axis=0))
    if 2 * defined.sum() < len(defined):
        return ()
    kept = {
        method: [tuple(part[defined].tolist()) if len(part) else () for part in pair]
        for method, pair in figures.items()
    }
    return tuple(
        Replicates(method=method, recall=recall, auc=auc) for method, (recall, auc) in kept.items()
    )


def interval_of(replicates: Floats) -> Interval | None:
    """The interval of one figure's replicates (B,); None where fewer than half are defined."""
    defined = replicates[np.isfinite(replicates)]
    return interval(defined) if len(defined) and 2 * len(defined) >= len(replicates) else None


def _mean(parts: Iterable[Floats]) -> Floats:
    """The mean of (B,) arrays; (0,) of none."""
    found = list(parts)
    return np.mean(found, axis=0) if found else np.empty(0)


def _ratio(above: npt.NDArray[np.generic], below: npt.NDArray[np.generic]) -> Floats:
    """Above by below, NaN by 0."""
    found = np.full(len(below), np.nan)
    np.divide(above, below, out=found, where=below != 0)
    return found
