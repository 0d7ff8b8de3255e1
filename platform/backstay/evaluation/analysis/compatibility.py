"""Compatibility of each method's maps and vectors with older versions."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, get_args

from backstay.evaluation.analysis.by_version import ByVersion, Estimate, Series
from backstay.evaluation.analysis.summary import ByTask, means_by_task
from backstay.evaluation.comparison.results import ALIGNMENT, MapFigures, Record, Results
from backstay.evaluation.metrics.compatibility import SLICES_OF_ENTITIES

MapFigure = Literal["alignment_error", "spectral_norm", "condition_number"]


@dataclass(frozen=True, kw_only=True)
class Compatibility:
    """One method's compatibility with older versions; shares lie in [0, 1]."""

    maps: tuple[MapFigures, ...]
    update_gain: float | None
    """Share of a retrained model's gain that old item vectors already give.

    The mean over versions k ≥ 1 of (M(new, old) - M(old, old)) / (M(new, new) - M(old, old)) to
    version 0 (arXiv 2003.11942), M being Recall@50 on k's window. At 0, new users' vectors find as
    much among old item vectors as old users' vectors do; at 1, as much as among new item vectors.
    Versions that gain nothing themselves are left out; None if all are."""
    average_compatibility: float | None
    """Share of pairs (k, j), j < k, with M(new, old) > M(old, old) (arXiv 2211.09032); None without
    maps."""


def compatibility(results: Results, recall: Series) -> dict[str, Compatibility]:
    """Compatibility of each method of the table; `recall` is Recall@50 by version."""
    found = {}
    for row in results.summary:
        maps = tuple(part for part in results.maps if part.method == row.method)
        found[row.method] = Compatibility(
            maps=maps,
            update_gain=_update_gain(maps, recall.get(row.method, {})),
            average_compatibility=fmean(part.compatible for part in maps) if maps else None,
        )
    return found


def _update_gain(maps: Sequence[MapFigures], recall: ByVersion) -> float | None:
    shares = []
    for part in maps:
        if part.target or part.source not in recall:
            continue
        gain = recall[part.source].value - part.old_recall
        if gain > 0:
            shares.append((part.recall - part.old_recall) / gain)
    return fmean(shares) if shares else None


def distances_by_slice(records: Sequence[Record]) -> ByTask:
    """Mean alignment error over versions, by method and slice of entities; `all` comes first."""
    keys = {"all": ALIGNMENT, **{name: f"{ALIGNMENT}/{name}" for name in SLICES_OF_ENTITIES}}
    return {
        method: {name: found[key] for name, key in keys.items() if key in found}
        for method, found in means_by_task(records, "alignment_error").items()
    }


def chain_figures(maps: Sequence[MapFigures]) -> dict[MapFigure, dict[str, ByVersion]]:
    """Figures of maps by method and by versions mapped back, means over pairs that far apart."""
    return {figure: _along_chain(figure, maps) for figure in get_args(MapFigure)}


def _along_chain(figure: MapFigure, maps: Sequence[MapFigures]) -> dict[str, ByVersion]:
    found: dict[str, dict[int, list[float]]] = {}
    for part in maps:
        value = getattr(part, figure)
        if value is not None:
            steps = found.setdefault(part.method, {})
            steps.setdefault(part.source - part.target, []).append(value)
    return {
        method: {step: Estimate(fmean(steps[step])) for step in sorted(steps)}
        for method, steps in found.items()
    }
