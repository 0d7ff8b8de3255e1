"""Writing a comparison of maps between tables: a page, a Markdown text and a JSON document."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from backstay.evaluation.report.templates import write_pages
from backstay.evaluation.report.words import number
from backstay.evaluation.table_maps import sentences
from backstay.evaluation.table_maps.document import to_json
from backstay.evaluation.table_maps.results import (
    MapComparison,
    MapScore,
    PairInfo,
    Route,
    Settings,
    TableInfo,
)
from backstay.storage.atomic import write_file

RESULTS_FILE = "tables.json"
REPORT_FILE = "report.html"
TEXT_FILE = "report.md"


@dataclass(frozen=True)
class PairSection:
    """The section of the report on one pair of tables."""

    pair: PairInfo
    scores: Sequence[MapScore]
    advice: Sequence[str]


class Content(TypedDict):
    """What the templates render."""

    verdict: str
    tables: Sequence[TableInfo]
    pairs: Sequence[PairSection]
    left_out: Sequence[str]
    used: Collection[MapScore]
    settings: Settings
    routes: Mapping[Route, str]
    methods: Mapping[str, str]
    columns: Mapping[str, str]
    percent: Callable[[float], str]
    interval: Callable[[MapScore], str]
    number: Callable[[float | None], str]


def write_comparison(comparison: MapComparison, out: Path) -> Path:
    """Write `tables.json`, `report.html` and `report.md` into the folder `out`.

    The page is self-contained: it loads nothing. Returns its path.
    """
    write_file(out / RESULTS_FILE, to_json(comparison).encode())
    write_pages(
        out,
        package="backstay.evaluation.table_maps",
        names=(TEXT_FILE, REPORT_FILE),
        content=_content(comparison),
    )
    return out / REPORT_FILE


def used_maps(comparison: MapComparison) -> frozenset[MapScore]:
    """The scores of the maps that the advice is to use."""
    return frozenset(part.score for part in comparison.advice if part.code != "keep-old")


def _content(comparison: MapComparison) -> Content:
    return Content(
        verdict=sentences.verdict(comparison.conclusion),
        tables=comparison.tables,
        pairs=[_section(comparison, pair) for pair in comparison.pairs],
        left_out=sentences.left_out(comparison),
        used=used_maps(comparison),
        settings=comparison.settings,
        routes=sentences.ROUTES,
        methods=sentences.METHODS,
        columns=sentences.COLUMNS,
        percent=sentences.percent,
        interval=sentences.overlap_interval,
        number=number,
    )


def _section(comparison: MapComparison, pair: PairInfo) -> PairSection:
    key = pair.source, pair.target
    return PairSection(
        pair,
        [score for score in comparison.maps if (score.source, score.target) == key],
        [sentences.advice_sentence(part) for part in comparison.advice if part.pair == key],
    )
