"""What comparing tables finds, and the text of tables.json."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from backstay.evaluation.metrics.bootstrap import Interval

Route = Literal["direct", "chain"]
"""One map fitted for the pair itself, or the maps of the steps between one after another."""


@dataclass(frozen=True, kw_only=True)
class TableInfo:
    """One table; its version is its place in the list, oldest first."""

    version: int
    name: str
    path: str
    rows: int
    dim: int
    id_type: str


@dataclass(frozen=True, kw_only=True)
class PairInfo:
    """What two tables have in common; ids of one alone take no part."""

    source: int  # the newer version
    target: int  # the older one
    common: int  # ids in both
    only_newer: int
    only_older: int
    fitted: int  # ids that direct maps are fitted on
    judged: int  # held-out ids: in no fit of any pair
    gallery: int  # older vectors among which neighbours are looked for


@dataclass(frozen=True, kw_only=True)
class MapScore:
    """How far one map from `source` brings its vectors to the table of `target`.

    Means over held-out ids; intervals are 95 % of bootstrap replicates over those ids.
    """

    source: int
    target: int
    method: str
    route: Route
    cosine: float  # between a mapped vector and the older one of the same id
    cosine_interval: Interval
    overlap_at_10: float  # of the 10 nearest older neighbours: share kept
    overlap_interval: Interval
    overlap_behind: Interval  # paired: the pair's best overlap minus this one's
    recall_retention: float  # share of ids still found among the 10 nearest of their own vector
    retention_interval: Interval
    relative_error: float | None  # 0: perfect; 1: no better than the older table's mean vector
    spectral_norm: float  # greatest factor by which the matrix stretches a vector
    condition_number: float | None  # greatest by least singular value; None: infinite


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to do about one pair."""

    source: int
    target: int
    keep_old: bool  # no map leads back: keep the older table
    method: str  # the map to use, or the best of those that won't do
    route: Route
    sentence: str


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A map that could not be fitted or judged."""

    source: int
    target: int
    what: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TablesComparison:
    """A whole comparison of tables."""

    verdict: str
    tables: tuple[TableInfo, ...]
    pairs: tuple[PairInfo, ...]
    maps: tuple[MapScore, ...]
    advice: tuple[Advice, ...]
    left_out: tuple[LeftOut, ...]
    settings: dict[str, Any]

    def to_json(self) -> str:
        """The text of tables.json."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
