"""The tables of the report on compatibility between versions."""

from collections.abc import Iterable

from backstay.evaluation.analysis.by_consumer import NO_SHARES
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.comparison.results import MapFigures
from backstay.evaluation.report import words
from backstay.evaluation.report.table import Row, Table, TableCell, heat, rows


def shares(analysis: Analysis) -> Table:
    """Compatibility in one line per method."""
    made = []
    for method, part in analysis.compatibility.items():
        mean = analysis.consumers.shares.get(method, NO_SHARES)
        figures = (
            part.average_compatibility,
            None if method in analysis.incomplete else part.update_gain,
            mean.retention,
            mean.negative_flips,
            mean.positive_flips,
        )
        made.append(Row(method, tuple(TableCell(words.share(figure)) for figure in figures)))
    return Table(
        "compatibility",
        "Compatibility in figures",
        "Criterion holds: share of pairs of versions where new vectors, mapped back, do better "
        "than the old ones (see the next table). Update gain: share of the gain from recomputing "
        "all old vectors that is there without recomputing them, mean over versions. Retention: "
        "share of consumers' ROC-AUC above chance that is left. Negative flips: share of "
        "consumers' decisions that were right on version 0's own vectors and are wrong now. "
        "Positive flips: the reverse.",
        ("Criterion holds", "Update gain", "Retention", "Negative flips", "Positive flips"),
        tuple(made),
    )


def criterion(analysis: Analysis) -> Table:
    """M(new, old) > M(old, old), pair by pair."""
    maps = _by_step(analysis)
    steps = sorted({step for _, step in maps}, key=lambda step: (step[0], -step[1]))
    columns = {f"{source}→{target}": (source, target) for source, target in steps}

    def cell(method: str, column: str) -> TableCell:
        part = maps.get((method, columns[column]))
        if part is None:
            return TableCell()
        change = 100 * (part.recall / part.old_recall - 1) if part.old_recall else None
        small = () if change is None else (words.signed(change),)
        if part.recall == part.old_recall:  # by construction, such as without an update
            return TableCell("=", small, "even")
        return TableCell(
            "✓" if part.compatible else "✗", small, "good" if part.compatible else "bad1"
        )

    sources = [source for source, _ in steps]
    return Table(
        "criterion",
        "Compatibility criterion by pair of versions",
        "k→j: version k's user vectors, mapped back to version j, search among version j's own "
        "item vectors. ✓: they find more than version j's user vectors do on the same window (the "
        "criterion M(new, old) > M(old, old)); =: as much, ✗: less. Below: the difference in "
        "percent.",
        tuple(columns),
        _with_figures(rows(analysis.methods, columns, cell)),
        bands=tuple((f"version {k}", sources.count(k)) for k in dict.fromkeys(sources)),
        dense=True,
    )


def flips(analysis: Analysis) -> Table:
    """Flipped decisions of each consumer."""
    worse, better = analysis.consumers.negative_flips, analysis.consumers.positive_flips
    tasks = dict.fromkeys(task for row in worse.values() for task in row)
    greatest = _greatest(worse)

    def cell(method: str, task: str) -> TableCell:
        value = worse.get(method, {}).get(task)
        if value is None:
            return TableCell()
        won = words.share(better.get(method, {}).get(task))
        return TableCell(words.share(value), (f"+{won}",), heat(value, greatest))

    return Table(
        "flips",
        "Flipped decisions",
        "Share of a consumer's decisions that were right on version 0's own vectors and are wrong "
        "now; below, with a plus, the share that was wrong and is right. Many decisions can flip "
        "while the mean stays the same.",
        tuple(words.plain(task) for task in tasks),
        rows(analysis.methods, tasks, cell),
    )


def slices(analysis: Analysis) -> Table:
    """Alignment error of old and new, popular and rare entities."""
    found = analysis.distances
    names = [name for name in words.SLICES if any(name in row for row in found.values())]
    greatest = _greatest(found)

    def cell(method: str, name: str) -> TableCell:
        value = found.get(method, {}).get(name)
        return TableCell(words.number(value), shade=heat(value, greatest))

    return Table(
        "slices",
        "Distance by slice of entities",
        "Mean distance between the vectors an old consumer gets and M_0's own vectors. Head: the "
        "tenth of known items with the most interactions; tail: the half with the fewest; new: "
        "users and items that did not exist when version 0 was trained.",
        tuple(words.SLICES[name] for name in names),
        rows(analysis.methods, names, cell),
    )


def maps(analysis: Analysis) -> Table:
    """Spectral norm and condition number of each map, and of the longest chain."""
    found = _by_step(analysis)
    sources = sorted({source for _, (source, target) in found if target == source - 1})
    whole = max(sources, default=0)
    columns = {f"{source}→{source - 1}": (source, source - 1) for source in sources}
    if whole > 1:
        columns[f"{whole}→0"] = (whole, 0)

    def cell(method: str, column: str) -> TableCell:
        part = found.get((method, columns[column]))
        if part is None:
            return TableCell()
        return TableCell(
            words.number(part.spectral_norm, 2), (f"κ {_ratio(part.condition_number)}",)
        )

    return Table(
        "maps",
        "Norms and condition numbers of the maps",
        "For each map: the greatest factor by which it stretches a vector (spectral norm), and "
        "below it κ, that factor divided by the least one (condition number; ∞: the map loses a "
        "direction). Both are 1 for a rotation; large figures amplify noise along the chain.",
        tuple(columns),
        _with_figures(rows(analysis.methods, columns, cell)),
        dense=True,
    )


def _ratio(condition: float | None) -> str:
    if condition is None:
        return "∞"
    return f"{condition:,.0f}" if 10 <= condition < 1e6 else f"{condition:.2g}"  # noqa: PLR2004


def _by_step(analysis: Analysis) -> dict[tuple[str, tuple[int, int]], MapFigures]:
    """Maps by method and by (source, target)."""
    return {(part.method, (part.source, part.target)): part for part in analysis.results.maps}


def _greatest(figures: dict[str, dict[str, float]]) -> float:
    return max((value for row in figures.values() for value in row.values()), default=0.0)


def _with_figures(made: Iterable[Row]) -> tuple[Row, ...]:
    return tuple(row for row in made if not row.empty)
