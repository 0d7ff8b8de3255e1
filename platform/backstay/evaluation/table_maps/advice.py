"""What to do about each pair of tables, as codes and figures."""

from collections.abc import Sequence

from backstay.evaluation.table_maps.results import Advice, AdviceCode, Conclusion, MapScore

LEAST = 0.5
"""A good enough map keeps this share of neighbours, and of ids found by their own vector."""

MARGIN = 0.01
"""Smaller differences of overlap or relative error don't count."""

SIMPLEST_FIRST = ("no-map", "procrustes", "similarity", "ridge", "ridge-intercept")


def advise(scores: Sequence[MapScore]) -> Advice:
    """Choose the map for the pair that all `scores` are of.

    1. Keep the maps whose overlap is not significantly more than the margin below the best.
    2. Of these, keep the maps whose relative error is within the margin of the least.
    3. Choose the simplest, and a chain before a direct map, which would have to be fitted and kept.
    """
    level = [score for score in scores if score.overlap_behind[0] <= MARGIN]
    least = min(_error(score) for score in level)
    level = [score for score in level if _error(score) <= least + MARGIN]
    chosen = min(
        level, key=lambda score: (SIMPLEST_FIRST.index(score.method), score.route == "direct")
    )
    code: AdviceCode = "no-map-needed" if chosen.method == "no-map" else "use-map"
    if min(chosen.overlap_at_10, chosen.recall_retention) < LEAST:
        code = "keep-old"
    return Advice(
        code=code,
        score=chosen,
        search_only=code != "keep-old" and _error(chosen) >= LEAST,
    )


def conclude(advice: Sequence[Advice], *, newest: int) -> Conclusion:
    """Sort the older versions by the advice on the newest table."""
    codes = {part.score.target: part.code for part in advice if part.score.source == newest}
    return Conclusion(
        newest=newest,
        replaced=tuple(v for v in range(newest) if codes.get(v) in {"use-map", "no-map-needed"}),
        kept=tuple(v for v in range(newest) if codes.get(v) == "keep-old"),
        unknown=tuple(v for v in range(newest) if v not in codes),
    )


def _error(score: MapScore) -> float:
    return 0.0 if score.relative_error is None else score.relative_error
