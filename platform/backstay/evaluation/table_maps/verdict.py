"""What to do about each pair of tables, in words."""

from collections.abc import Sequence

from backstay.evaluation.table_maps.results import Advice, MapScore, Route

LEAST = 0.5
"""A map that keeps fewer of the neighbours, or finds fewer of the ids again, leads nowhere."""

MARGIN = 0.01
"""Differences of overlap or relative error below it are none."""

SIMPLEST_FIRST = ("no-map", "procrustes", "similarity", "ridge", "ridge-intercept")

ROUTES: dict[Route, str] = {
    "direct": "fitted for this pair",
    "chain": "one step after another",
}


def advise(scores: Sequence[MapScore]) -> Advice:
    """Which map to use for the pair that all `scores` are of, or that none will do.

    Of the maps whose overlap isn't surely behind the best by more than the margin, those count
    whose relative error is within the margin of the least; of these the simplest is named, and a
    chain before a map of its own, which would have to be fitted and kept.
    """
    level = [score for score in scores if score.overlap_behind[0] <= MARGIN]
    least = min(_error(score) for score in level)
    level = [score for score in level if _error(score) <= least + MARGIN]
    chosen = min(
        level, key=lambda score: (SIMPLEST_FIRST.index(score.method), score.route == "direct")
    )
    keep_old = min(chosen.overlap_at_10, chosen.recall_retention) < LEAST
    return Advice(
        source=chosen.source,
        target=chosen.target,
        keep_old=keep_old,
        method=chosen.method,
        route=chosen.route,
        sentence=_refusal(chosen) if keep_old else _recommendation(chosen),
    )


def verdict(advice: Sequence[Advice], *, newest: int) -> str:
    """In a sentence or two: which older tables the newest one can stand in for."""
    from_newest = [part for part in advice if part.source == newest]
    kept = [part.target for part in from_newest if part.keep_old]
    replaced = [part.target for part in from_newest if not part.keep_old]
    unknown = sorted(set(range(newest)) - set(kept) - set(replaced))
    sentences = []
    if kept:
        sentences.append(f"Keep {_tables(kept)}: no map leads there from table {newest}.")
    if replaced:
        sentences.append(
            f"Table {newest} can stand in for {_tables(replaced)}, read through the maps named "
            "below."
        )
    if unknown:
        sentences.append(f"Nothing can be said of {_tables(unknown)}.")
    return " ".join(sentences)


def _recommendation(score: MapScore) -> str:
    what = (
        "no map is needed; the first dimensions are enough"
        if score.method == "no-map"
        else f"use {score.method}, {ROUTES[score.route]}"
    )
    return f"{_pair(score)}: {what}. {_figures(score)}{_caution(score)}"


def _refusal(score: MapScore) -> str:
    return (
        f"{_pair(score)}: keep the old table; no map leads back. The best, {score.method} "
        f"({ROUTES[score.route]}): {_figures(score)} At least {percent(LEAST)} of both are "
        "expected."
    )


def _figures(score: MapScore) -> str:
    low, high = score.overlap_interval
    error = "" if score.relative_error is None else f", relative error {score.relative_error:.2f}"
    return (
        f"{percent(score.overlap_at_10)} of the ten nearest neighbours stay "
        f"({100 * low:.1f}–{100 * high:.1f}), {percent(score.recall_retention)} of the ids are "
        f"found again by their own vector; cosine {score.cosine:.3f}{error}."
    )


def _caution(score: MapScore) -> str:
    if _error(score) < LEAST:
        return ""
    return " Neighbours stay, the numbers don't: search works, models that read them may not."


def percent(share: float) -> str:
    """A share of 1 in percent, never broken across lines."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _pair(score: MapScore) -> str:
    return f"{score.source}→{score.target}"


def _tables(versions: Sequence[int]) -> str:
    found = [str(version) for version in sorted(versions)]
    *first, last = found
    return f"tables {', '.join(first)} and {last}" if first else f"table {last}"


def _error(score: MapScore) -> float:
    return 0.0 if score.relative_error is None else score.relative_error
