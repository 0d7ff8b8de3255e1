"""The tables of the report: what each cell says, for the page and the text alike."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from backstay.evaluation.analysis.breakdown import by_consumer
from backstay.evaluation.analysis.compatibility import average_compatibility, update_gain
from backstay.evaluation.analysis.decision import TOLERATED
from backstay.evaluation.analysis.groups import SUM
from backstay.evaluation.analysis.significance import FIX_M0, pairs
from backstay.evaluation.analysis.summary import mean_over_tasks, values_of
from backstay.evaluation.comparison.results import (
    ALIGNMENT,
    RETRIEVAL,
    MapFigures,
    Metric,
    Results,
    Summary,
)
from backstay.evaluation.metrics.compatibility import SLICES_OF_ENTITIES
from backstay.evaluation.report import words

NONE = "–"


@dataclass(frozen=True)
class Cell:
    """One cell: what it says, in small print below, and how it is shaded."""

    text: str = NONE
    small: tuple[str, ...] = ()
    tone: str = ""  # good, even, bad1 … bad3 (worse and worse), heat1 … heat4 (more and more)


@dataclass(frozen=True)
class Row:
    """A method, or what else the row is about."""

    name: str
    cells: tuple[Cell, ...]
    chosen: bool = False  # the verdict's


@dataclass(frozen=True)
class Sheet:
    """One table."""

    key: str
    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    bands: tuple[tuple[str, int], ...] = ()  # headings over neighbouring columns: text, how many
    dense: bool = False  # many narrow columns


def comparable(results: Results) -> tuple[Summary, ...]:
    """The summary without what stands for fewer versions or tasks than the other methods' figures.

    Where a cell of a method failed and a percentage can't be made, neither is the mean shown that
    it would have been made of, nor the alignment error.
    """
    failed = {failure.method for failure in results.failures}
    return tuple(
        replace(
            row,
            intended_recall50=None if row.intended_pct is None else row.intended_recall50,
            unintended_auc=None if row.unintended_pct is None else row.unintended_auc,
            alignment_error=None if row.total_pct is None else row.alignment_error,
        )
        if row.method in failed
        else row
        for row in results.summary
    )


def _whole(results: Results) -> Results:
    """The results without the records of methods that failed somewhere: no means of the rest."""
    failed = {failure.method for failure in results.failures}
    gone = failed & {row.method for row in results.summary if row.total_pct is None}
    kept = tuple(record for record in results.records if record.method not in gone)
    return replace(results, records=kept)


def comparison(results: Results, *, chosen: Sequence[str]) -> Sheet:
    """The three figures of each method with their intervals, and what it takes to run."""
    rows = []
    for row in comparable(results):
        intended = words.between(row.intended_interval), words.number(row.intended_recall50, 4)
        unintended = words.between(row.unintended_interval), words.number(row.unintended_auc, 4)
        cells = (
            Cell(words.percent(row.intended_pct), intended),
            Cell(words.percent(row.unintended_pct), unintended),
            Cell(words.percent(row.total_pct), (words.between(row.total_interval),)),
            Cell(words.number(row.alignment_error)),
            Cell(words.duration(row.fit_seconds)),
            Cell(words.memory(row.peak_rss_mb)),
        )
        rows.append(Row(row.method, cells, chosen=row.method in chosen))
    return Sheet(
        "comparison",
        "The comparison",
        f"Below a percentage: its 95 % interval, and the figure it is made of. {words.INTERVALS}",
        tuple(words.COLUMNS),
        tuple(rows),
    )


def apart(results: Results) -> Sheet:
    """By how much each method's sum is ahead of each other one's, where that is told."""
    names = [row.method for row in results.summary if row.total_pct is not None]
    found = {}
    for pair in pairs(results):
        if pair.figure == SUM and pair.told_apart:
            found[pair.first, pair.second] = pair.difference
            found[pair.second, pair.first] = -pair.difference

    def cell(method: str, other: str) -> Cell:
        if method == other:
            return Cell("")
        gap = found.get((method, other))
        if gap is None:
            return Cell("≈", tone="even")
        return Cell(words.signed(gap), tone="good" if gap > 0 else "bad1")

    return Sheet(
        "apart",
        "Who can be told apart",
        "By how many points the sum of the method on the left is ahead (+) of or behind (−) the "
        "one above. ≈: can't be told apart in this run. Of a hundred pairs that don't differ, "
        "five are told apart by chance.",
        tuple(names),
        tuple(Row(name, tuple(cell(name, other) for other in names)) for name in names),
        dense=True,
    )


def consumers(results: Results) -> Sheet:
    """What each consumer loses by each method."""
    found = by_consumer(results)
    values = values_of(results.records, "roc_auc")
    for method, retrieval in values_of(results.records, "recall@50", task=RETRIEVAL).items():
        values.setdefault(method, {}).update(retrieval)
    tasks = dict.fromkeys(task for row in values.values() for task in row)

    def cell(method: str, task: str) -> Cell:
        own = values.get(method, {}).get(task)
        if own is None:
            return Cell()
        cost = found.get(method, {}).get(task)
        mean = mean_over_tasks({task: own})
        if not found:  # nothing to hold it against
            return Cell(words.number(mean))
        return Cell(words.percent(cost), (words.number(mean),), tone=cost_tone(cost))

    return Sheet(
        "consumers",
        "Who is hit",
        f"Each consumer's mean over versions and seeds against {FIX_M0}, in percent; below it "
        "the ROC-AUC itself (0.5 is a coin toss, 1 is never wrong), for retrieval Recall@50.",
        tuple(words.plain(task) for task in tasks),
        _by_method(results, tasks, cell),
    )


def compatibility(results: Results) -> Sheet:
    """Compatibility in one line a method."""
    gains, shares = update_gain(results), average_compatibility(results)
    columns: dict[str, Callable[[str], str]] = {
        "Criterion holds": lambda method: words.share(shares.get(method)),
        "Update gain": lambda method: words.share(gains.get(method)),
        "Retention": _mean_share(results, "retention"),
        "Negative flips": _mean_share(results, "negative_flip_rate"),
        "Positive flips": _mean_share(results, "positive_flip_rate"),
    }
    return Sheet(
        "compatibility",
        "Compatibility in figures",
        "Criterion holds: share of pairs of versions where new vectors led back do better than "
        "the old ones (see the next table). Update gain: how much of what recomputing all old "
        "vectors would bring is there without recomputing; a mean over versions. Retention: what "
        "is left of consumers' ROC-AUC above a coin toss. Negative flips: decisions of consumers "
        "that were right on version 0's own vectors and are wrong now; positive: the other way "
        "round.",
        tuple(columns),
        _by_method(results, columns, lambda method, column: Cell(columns[column](method))),
    )


def _mean_share(results: Results, metric: Metric) -> Callable[[str], str]:
    found = values_of(results.records, metric)
    return lambda method: words.share(mean_over_tasks(found.get(method)))


def criterion(results: Results) -> Sheet:
    """M(new, old) > M(old, old), pair by pair."""
    found = {(part.method, part.source, part.target): part for part in results.maps}
    steps = sorted({(part.source, part.target) for part in results.maps}, key=_newest_last)
    columns = {f"{source}→{target}": (source, target) for source, target in steps}

    def cell(method: str, column: str) -> Cell:
        part = found.get((method, *columns[column]))
        if part is None:
            return Cell()
        change = 100 * (part.recall / part.old_recall - 1) if part.old_recall else None
        small = () if change is None else (words.signed(change),)
        return Cell(
            "✓" if part.compatible else "✗", small, tone="good" if part.compatible else "bad1"
        )

    sources = [source for source, _ in steps]
    return Sheet(
        "criterion",
        "Is the new better than the old?",
        "k→j: users of version k led back to version j, asking version j's own item vectors. ✓ "
        "where they find more than version j's users do on the same window (the criterion "
        "M(new, old) > M(old, old)), ✗ where they don't; below, by how many percent.",
        tuple(columns),
        tuple(row for row in _by_method(results, columns, cell) if _says_anything(row)),
        bands=tuple((f"version {k}", sources.count(k)) for k in dict.fromkeys(sources)),
        dense=True,
    )


def _newest_last(step: tuple[int, int]) -> tuple[int, int]:
    return step[0], -step[1]


def flips(results: Results) -> Sheet:
    """Flipped decisions of each consumer."""
    worse = values_of(results.records, "negative_flip_rate")
    better = values_of(results.records, "positive_flip_rate")
    tasks = dict.fromkeys(task for row in worse.values() for task in row)
    greatest = _greatest(_mean(row, task) for row in worse.values() for task in row)

    def cell(method: str, task: str) -> Cell:
        value = _mean(worse.get(method, {}), task)
        if value is None:
            return Cell()
        won = words.share(_mean(better.get(method, {}), task))
        return Cell(words.share(value), (f"+{won}",), tone=heat(value, greatest))

    return Sheet(
        "flips",
        "Decisions that flip",
        "Share of a consumer's decisions that were right on version 0's own vectors and are wrong "
        "now; below, with a plus, the share that was wrong and is right. The mean can stay where "
        "it is while many single decisions change.",
        tuple(words.plain(task) for task in tasks),
        _by_method(results, tasks, cell),
    )


def slices(results: Results) -> Sheet:
    """Alignment error of entities old and new, popular and rare."""
    keys = {"all": ALIGNMENT, **{name: f"{ALIGNMENT}/{name}" for name in SLICES_OF_ENTITIES}}
    found = values_of(results.records, "alignment_error")
    named = {name: key for name, key in keys.items() if any(key in row for row in found.values())}
    greatest = _greatest(_mean(row, key) for row in found.values() for key in named.values())

    def cell(method: str, name: str) -> Cell:
        value = _mean(found.get(method, {}), named[name])
        return Cell(words.number(value), tone=heat(value, greatest))

    return Sheet(
        "slices",
        "Whose vectors move",
        "Mean distance between the vectors an old consumer gets and those M_0 would give it. Head: "
        "the tenth of known items with most interactions; tail: the half with fewest; born later: "
        "users and items that weren't there when version 0 was trained.",
        tuple(words.SLICES.get(name, words.plain(name)) for name in named),
        _by_method(results, named, cell),
    )


def maps(results: Results) -> Sheet:
    """What each single map does to lengths."""
    steps = sorted({part.source for part in results.maps if part.target == part.source - 1})
    found = {(part.method, part.source, part.target): part for part in results.maps}
    whole = max(steps, default=0)
    columns = {f"{source}→{source - 1}": (source, source - 1) for source in steps}
    if whole > 1:
        columns[f"{whole}→0"] = (whole, 0)

    def cell(method: str, column: str) -> Cell:
        part: MapFigures | None = found.get((method, *columns[column]))
        if part is None:
            return Cell()
        condition = part.condition_number
        ratio = "∞" if condition is None else f"{condition:.2g}"
        if condition is not None and 10 <= condition < 1e6:  # noqa: PLR2004
            ratio = f"{condition:,.0f}"
        return Cell(words.number(part.spectral_norm, 2), (f"κ {ratio}",))

    return Sheet(
        "maps",
        "Stretching and shrinking",
        "For every map: the greatest factor by which it stretches a vector (spectral norm), and "
        "below it κ, that factor over the least one (condition number; ∞: it flattens a "
        "direction altogether). A rotation has 1 and 1; large figures amplify noise along the "
        "chain.",
        tuple(columns),
        tuple(row for row in _by_method(results, columns, cell) if _says_anything(row)),
        dense=True,
    )


def cost_tone(cost: float | None) -> str:
    """How a consumer's percentage is shaded: from losses tolerated to twice that and more."""
    if cost is None or abs(cost) < TOLERATED / 4:
        return ""
    if cost > 0:
        return "good"
    return "bad1" if cost >= -TOLERATED else "bad2" if cost >= -2 * TOLERATED else "bad3"


def heat(value: float | None, greatest: float) -> str:
    """How a value is shaded beside the greatest of its table: each shade is twice the one before.

    Below a sixteenth of it there is none.
    """
    if value is None or greatest <= 0:
        return ""
    shade = sum(value * 2**halvings > greatest for halvings in range(1, 5))
    return f"heat{shade}" if shade else ""


def _greatest(values: Iterable[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)


def _mean(tasks: Mapping[str, Mapping[int, Sequence[float]]], task: str) -> float | None:
    versions = tasks.get(task)
    return fmean(fmean(values) for values in versions.values()) if versions else None


def _by_method(
    results: Results, columns: Iterable[str], cell: Callable[[str, str], Cell]
) -> tuple[Row, ...]:
    names = list(columns)
    return tuple(
        Row(row.method, tuple(cell(row.method, name) for name in names)) for row in results.summary
    )


def _says_anything(row: Row) -> bool:
    return any(cell.text != NONE for cell in row.cells)


def sheets(results: Results, *, chosen: Sequence[str]) -> dict[str, Sheet]:
    """Every table that has something to say, by its key."""
    whole = _whole(results)
    made = (
        comparison(results, chosen=chosen),
        apart(results),
        consumers(whole),
        compatibility(whole),
        criterion(results),
        flips(whole),
        slices(whole),
        maps(results),
    )
    return {
        sheet.key: sheet for sheet in made if sheet.columns and any(map(_says_anything, sheet.rows))
    }
