"""Texts about maps between tables: verdict, advice, and what was left out."""

from collections.abc import Callable, Mapping, Sequence

from backstay.evaluation.report.words import listed
from backstay.evaluation.table_maps.advice import LEAST
from backstay.evaluation.table_maps.results import (
    Advice,
    AdviceCode,
    Conclusion,
    MapComparison,
    MapScore,
    Route,
    SkipCode,
    SkippedMap,
)

METHODS = {
    "no-map": "The first dimensions of the newer vectors, unchanged: what a consumer reads without "
    "a map.",
    "procrustes": "The rotation nearest to the older vectors; keeps lengths and angles.",
    "similarity": "A rotation with one scale and an offset; needs few ids.",
    "ridge": "The linear map of least squared error, with a small penalty.",
    "ridge-intercept": "The same with an offset, for vectors whose mean is not zero.",
}
"""One sentence for each kind of map."""

ROUTES: Mapping[Route, str] = {
    "direct": "one map, fitted for this pair",
    "chain": "the maps of the steps between, one after another",
}


def percent(share: float) -> str:
    """A share of 1 in percent, never broken across lines."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


COLUMNS = {
    "Overlap@10": "Share of an id's ten nearest older neighbours (by cosine) that are also among "
    f"the ten nearest of its mapped vector. Below {percent(LEAST)} a map is not good enough.",
    "Retention": "How often an id's own older vector is among the ten nearest of its mapped "
    "vector, in percent of how often it is among the ten nearest of the older vector itself.",
    "Cosine": "Mean cosine between mapped and older vectors.",
    "Error": "Size of the mapped vectors' errors relative to the spread of the older vectors: 0 is "
    "perfect, 1 is no better than the mean vector. It matters to models that read the values.",
    "Norm": "The greatest factor by which the map stretches a vector (spectral norm), and below it "
    "that factor divided by the least one (condition number).",
}
"""What each column of the comparison means."""


def verdict(conclusion: Conclusion) -> str:
    """Which older tables the newest one can replace, in at most three sentences."""
    newest, sentences = conclusion.newest, []
    if conclusion.kept:
        sentences.append(
            f"Keep {_tables(conclusion.kept)}: no map from table {newest} is good enough."
        )
    if conclusion.replaced:
        sentences.append(
            f"Table {newest} can replace {_tables(conclusion.replaced)}, read through the maps "
            "named below."
        )
    if conclusion.unknown:
        sentences.append(f"No map to {_tables(conclusion.unknown)} could be judged.")
    return " ".join(sentences)


def advice_sentence(advice: Advice) -> str:
    """What to do about one pair, with the figures of its map."""
    score = advice.score
    caution = (
        " Neighbours are kept, but values are not: search works, models that read the values may "
        "not."
        if advice.search_only
        else ""
    )
    return f"{score.label}: {ADVICE[advice.code](score)}{caution}"


ADVICE: Mapping[AdviceCode, Callable[[MapScore], str]] = {
    "use-map": lambda score: f"use {_map(score)}. {_figures(score)}",
    "no-map-needed": lambda score: (
        f"no map is needed; the first dimensions are good enough. {_figures(score)}"
    ),
    "keep-old": lambda score: (
        "keep the old table; no map back is good enough. The best is "
        f"{_map(score)}: {_figures(score)} At least {percent(LEAST)} of both are expected."
    ),
}


def skipped_sentence(skipped: SkippedMap, comparison: MapComparison) -> str:
    """Which map was left out, and why."""
    what = skipped.method or "every map"
    return f"{skipped.label}: {what} left out, {skip_reason(skipped, comparison)}."


def skip_reason(skipped: SkippedMap, comparison: MapComparison) -> str:
    """Why a map was left out."""
    return SKIPPED[skipped.code](skipped, comparison)


def _too_few_ids(skipped: SkippedMap, comparison: MapComparison) -> str:
    pair = next(pair for pair in comparison.pairs if pair.pair == skipped.pair)
    return f"{pair.common} ids in common, {pair.judged} of them held out: too few"


def _too_few_dimensions(skipped: SkippedMap, comparison: MapComparison) -> str:
    source, target = (comparison.tables[v].dim for v in (skipped.source, skipped.target))
    return f"{source} dimensions are too few for the older table's {target}"


SKIPPED: Mapping[SkipCode, Callable[[SkippedMap, MapComparison], str]] = {
    "too-few-ids": _too_few_ids,
    "too-few-dimensions": _too_few_dimensions,
}


def left_out(comparison: MapComparison) -> list[str]:
    """Which ids were not used, and which maps could not be fitted or judged: a sentence each."""
    ids = [
        f"{pair.label}: {pair.only_newer:,} ids of table {pair.source} alone and "
        f"{pair.only_older:,} of table {pair.target} alone were not used."
        for pair in comparison.pairs
        if pair.only_newer or pair.only_older
    ]
    return ids + [skipped_sentence(part, comparison) for part in comparison.skipped]


def overlap_interval(score: MapScore) -> str:
    """The 95 % interval of the overlap, in percent without the sign."""
    low, high = score.overlap_interval
    return f"{100 * low:.1f}–{100 * high:.1f}"


def _figures(score: MapScore) -> str:
    error = "" if score.relative_error is None else f", relative error {score.relative_error:.2f}"
    return (
        f"{percent(score.overlap_at_10)} of the ten nearest neighbours are kept "
        f"({overlap_interval(score)}), {percent(score.recall_retention)} of the ids are found by "
        f"their own vector; cosine {score.cosine:.3f}{error}."
    )


def _map(score: MapScore) -> str:
    return f"{score.method} ({score.route})"


def _tables(versions: Sequence[int]) -> str:
    return f"table{'s' if len(versions) > 1 else ''} {listed([*map(str, versions)])}"
