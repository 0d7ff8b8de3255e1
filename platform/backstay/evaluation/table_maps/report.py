"""The comparison of tables for people: a page, a text, and a table for the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from backstay.evaluation.comparison.files import write_whole
from backstay.evaluation.report.templates import write_pages
from backstay.evaluation.table_maps.results import MapScore, TablesComparison
from backstay.evaluation.table_maps.verdict import LEAST, ROUTES, percent

if TYPE_CHECKING:
    from rich.console import RenderableType

RESULTS_FILE = "tables.json"
REPORT_FILE = "report.html"
TEXT_FILE = "report.md"

METHODS = {
    "no-map": "The first dimensions of the newer vectors, as they are: what a consumer gets who is "
    "told nothing.",
    "procrustes": "The rotation nearest to the older vectors: lengths and angles stay as the newer "
    "model has them.",
    "similarity": "A rotation with one scale and an offset: needs few ids.",
    "ridge": "The linear map of least squared error, a little shrunk.",
    "ridge-intercept": "The same with an offset, for vectors that don't lie around zero.",
}
"""One sentence for each kind of map."""

COLUMNS = {
    "Overlap@10": "Share of an id's ten nearest older neighbours (by cosine) that are also among "
    f"the ten nearest of its mapped vector. Below {percent(LEAST)} a map leads nowhere.",
    "Retention": "How often an id's own older vector is among the ten nearest of its mapped "
    "vector, where asking with the older vector itself is 100 %.",
    "Cosine": "Mean cosine between mapped and older vectors.",
    "Error": "Size of the mapped vectors' errors relative to the spread of the older vectors: 0 is "
    "perfect, 1 no better than the mean vector. What models that read the numbers feel.",
    "Norm": "The greatest factor by which the map lengthens a vector (spectral norm), and below "
    "it by how much more than the least (condition number).",
}
"""What each column of the comparison means."""


def write_comparison(results: TablesComparison, out: Path) -> Path:
    """Write `tables.json`, `report.html` and `report.md` into the folder `out`.

    The page is self-contained: it loads nothing. Returns its path.
    """
    told = _content(results)
    write_whole(out / RESULTS_FILE, results.to_json().encode())
    names = (TEXT_FILE, REPORT_FILE)
    write_pages(out, package="backstay.evaluation.table_maps", names=names, content=told)
    return out / REPORT_FILE


def terminal_picture(results: TablesComparison) -> "RenderableType":
    """The verdict, the maps and the advice for a terminal; bold is what to use."""
    from rich import box  # noqa: PLC0415 - only where a person reads
    from rich.console import Group  # noqa: PLC0415
    from rich.padding import Padding  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(
        caption="a–b: 95 % over held-out ids; bold: the map to use",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for heading in ("pair", "map", "route"):
        table.add_column(f"\n{heading}", no_wrap=True)
    for heading in ("overlap\n@10, %", "reten-\ntion %", "\ncosine", "\nerror", "\nnorm"):
        table.add_column(heading, justify="right", no_wrap=True)
    used = _used(results)
    shown = None
    for score in results.maps:
        pair = f"{score.source}→{score.target}"
        if shown not in {None, pair}:
            table.add_section()
        table.add_row(
            pair if pair != shown else "",
            score.method,
            score.route,
            f"{100 * score.overlap_at_10:.1f} ({_between(score)})",
            f"{100 * score.recall_retention:.1f}",
            f"{score.cosine:.2f}",
            "–" if score.relative_error is None else f"{score.relative_error:.2f}",
            f"×{score.spectral_norm:.2f}",
            style="bold" if _key(score) in used else None,
        )
        shown = pair
    missing = [Text(sentence, style="dim") for sentence in _missing(results)]
    advice = [Text(part.sentence) for part in results.advice]
    return Group(
        Text(results.verdict, style="bold"), Padding(table, (1, 0), expand=False), *advice, *missing
    )


def _content(results: TablesComparison) -> dict[str, Any]:
    """What both templates say."""
    pairs = [
        (
            pair,
            [score for score in results.maps if _pair(score) == _pair(pair)],
            [part for part in results.advice if _pair(part) == _pair(pair)],
            [part for part in results.left_out if _pair(part) == _pair(pair)],
        )
        for pair in results.pairs
    ]
    return {
        "results": results,
        "pairs": pairs,
        "missing": _missing(results),
        "used": _used(results),
        "key": _key,
        "routes": ROUTES,
        "methods": METHODS,
        "columns": COLUMNS,
        "percent": percent,
        "between": _between,
        "number": _number,
    }


def _missing(results: TablesComparison) -> list[str]:
    """Which ids took no part, and which maps could not be."""
    ids = [
        f"{pair.source}→{pair.target}: {pair.only_newer:,} ids of table {pair.source} alone and "
        f"{pair.only_older:,} of table {pair.target} alone took no part."
        for pair in results.pairs
        if pair.only_newer or pair.only_older
    ]
    maps = [
        f"{part.source}→{part.target}: {part.what} left out, {part.reason}."
        for part in results.left_out
    ]
    return ids + maps


def _used(results: TablesComparison) -> set[tuple[int, int, str, str]]:
    return {
        (part.source, part.target, part.method, part.route)
        for part in results.advice
        if not part.keep_old
    }


def _key(score: MapScore) -> tuple[int, int, str, str]:
    return score.source, score.target, score.method, score.route


def _pair(part: Any) -> tuple[int, int]:
    return part.source, part.target


def _between(score: MapScore) -> str:
    low, high = score.overlap_interval
    return f"{100 * low:.1f}–{100 * high:.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
