"""Compatibility of each method's maps, as shares."""

from collections.abc import Sequence
from statistics import fmean

from backstay.evaluation.analysis.summary import values_of
from backstay.evaluation.comparison.results import RECOMMENDATION, MapFigures, Results


def update_gain(results: Results) -> dict[str, float | None]:
    """How much of a retrained model's gain old item vectors already give, by method.

    The mean over versions k ≥ 1 of (M(new, old) - M(old, old)) / (M(new, new) - M(old, old)) to
    version 0 (arXiv 2003.11942), M being Recall@50 on k's window. At 0, new vectors of users
    against old vectors of items are no better than old ones against old ones; at 1 they are as good
    as new against new. A version that gains nothing itself has no such share; None where no version
    has.
    """
    recalls = values_of(results.records, "recall@50", task=RECOMMENDATION)
    found: dict[str, float | None] = {}
    for method, maps in _maps(results).items():
        own = recalls.get(method, {}).get(RECOMMENDATION, {})
        shares = []
        for part in maps:
            if part.target or part.source not in own:
                continue
            gain = fmean(own[part.source]) - part.old_recall
            if gain > 0:
                shares.append((part.recall - part.old_recall) / gain)
        found[method] = fmean(shares) if shares else None
    return found


def average_compatibility(results: Results) -> dict[str, float | None]:
    """The share of pairs (k, j), j < k, that meet the criterion M(new, old) > M(old, old).

    Of arXiv 2211.09032, by method; None where a method has no maps.
    """
    return {
        method: fmean(part.compatible for part in maps) if maps else None
        for method, maps in _maps(results).items()
    }


def _maps(results: Results) -> dict[str, Sequence[MapFigures]]:
    """The maps of each method of the table."""
    return {
        row.method: [part for part in results.maps if part.method == row.method]
        for row in results.summary
    }
