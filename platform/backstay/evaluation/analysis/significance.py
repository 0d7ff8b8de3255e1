"""95 % intervals of methods' figures, and which differences between methods are significant.

All of it is computed from bootstrap replicates. Replicate b draws the same users, items and
consumer seeds for every method. A difference is computed within each replicate first, so its
interval is paired.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from backstay.evaluation.comparison.results import Replicates, Results
from backstay.evaluation.metrics.bootstrap import Interval, interval

FIX_M0 = "fix-m0"
"""Baseline of the unintended figure."""
NO_BC = "no-bc"
"""Baseline of the intended figure."""

Figure = Literal["intended_pct", "unintended_pct", "total_pct"]
FIGURES: tuple[Figure, ...] = ("intended_pct", "unintended_pct", "total_pct")
Floats = npt.NDArray[np.float64]


def missing_baselines(methods: Container[str]) -> tuple[str, ...]:
    """The baselines that are not among the methods; without both, nothing can be recommended."""
    return tuple(name for name in (NO_BC, FIX_M0) if name not in methods)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The difference between two methods in one figure."""

    first: str
    second: str
    figure: Figure
    difference: float  # first's minus second's, percentage points
    interval: Interval

    @property
    def significant(self) -> bool:
        """The interval excludes zero."""
        low, high = self.interval
        return low > 0 or high < 0


def percentages(replicates: Sequence[Replicates]) -> dict[Figure, dict[str, Floats]]:
    """Percentages of every method in every replicate; a figure without its baseline is empty."""
    by_method = {part.method: part for part in replicates}
    found: dict[Figure, dict[str, Floats]] = {figure: {} for figure in FIGURES}
    no_bc, fix_m0 = by_method.get(NO_BC), by_method.get(FIX_M0)
    for method, part in by_method.items():
        if no_bc and no_bc.recall and part.recall:
            found["intended_pct"][method] = _percent(part.recall, no_bc.recall)
        if fix_m0 and fix_m0.auc and part.auc:
            found["unintended_pct"][method] = _percent(part.auc, fix_m0.auc)
    for method, intended in found["intended_pct"].items():
        if method in found["unintended_pct"]:
            found["total_pct"][method] = intended + found["unintended_pct"][method]
    return found


def pairs(results: Results) -> tuple[Pair, ...]:
    """Differences between every two methods in every figure, in the order of the summary."""
    made = []
    for figure, by_method in percentages(results.replicates).items():
        rows = [row for row in results.summary if row.method in by_method]
        for first, second in combinations(rows, 2):
            values = getattr(first, figure), getattr(second, figure)
            if None in values:
                continue
            gaps = by_method[first.method] - by_method[second.method]
            made.append(
                Pair(
                    first=first.method,
                    second=second.method,
                    figure=figure,
                    difference=values[0] - values[1],
                    interval=interval(gaps),
                )
            )
    return tuple(made)


def _percent(found: Sequence[float], baseline: Sequence[float]) -> Floats:
    """Each replicate's distance above its baseline, in percent of the baseline."""
    return np.asarray(100 * (np.asarray(found) / np.asarray(baseline) - 1), np.float64)
