"""What a comparison of maps between tables finds, as codes and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from backstay.evaluation.metrics.bootstrap import Interval

Route = Literal["direct", "chain"]
"""One map fitted for the pair itself, or the maps of the steps between, one after another."""

AdviceCode = Literal[
    "use-map",
    "no-map-needed",  # the first dimensions of the newer vectors are good enough
    "keep-old",  # no map is good enough: keep the older table
]

SkipCode = Literal[
    "too-few-ids",  # in both tables, to fit and to judge on
    "too-few-dimensions",  # of the newer table
]


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
class OfPair:
    """Names the pair of versions that a result is about."""

    source: int  # the newer version
    target: int  # the older one

    @property
    def pair(self) -> tuple[int, int]:
        """(source, target)."""
        return self.source, self.target

    @property
    def label(self) -> str:
        """The pair as text."""
        return f"{self.source}→{self.target}"


@dataclass(frozen=True, kw_only=True)
class PairInfo(OfPair):
    """Numbers of ids of two tables. Only common ids are used."""

    common: int  # ids in both
    only_newer: int
    only_older: int
    fitted: int  # ids that direct maps are fitted on
    judged: int  # held-out ids: in no fit of any pair
    gallery: int  # older vectors among which neighbours are searched


@dataclass(frozen=True, kw_only=True)
class MapScore(OfPair):
    """How close one map brings the vectors of `source` to the table of `target`.

    Means over held-out ids; intervals are 95 % of bootstrap replicates over those ids.
    """

    method: str
    route: Route
    cosine: float  # between a mapped vector and the older one of the same id
    cosine_interval: Interval
    overlap_at_10: float  # share of the 10 nearest older neighbours that is kept
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

    code: AdviceCode
    score: MapScore  # of the map to use, or of the best one if the old table has to be kept
    search_only: bool  # neighbours are kept, but values are too far off for models to read


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """Which older tables the newest one can replace; versions in increasing order."""

    newest: int
    replaced: tuple[int, ...]
    kept: tuple[int, ...]  # no map from the newest table is good enough
    unknown: tuple[int, ...]  # no map from the newest table could be judged


@dataclass(frozen=True, kw_only=True)
class SkippedMap(OfPair):
    """A map that could not be fitted or judged."""

    method: str | None  # None: all of them
    code: SkipCode


class Settings(TypedDict):
    """The settings of a comparison."""

    methods: Sequence[str]
    sample: int
    held_out_share: float
    neighbours: int
    ridge_penalty: float
    bootstrap_replicates: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class MapComparison:
    """A comparison of maps between every two of several tables."""

    conclusion: Conclusion
    tables: tuple[TableInfo, ...]
    pairs: tuple[PairInfo, ...]
    maps: tuple[MapScore, ...]
    advice: tuple[Advice, ...]
    skipped: tuple[SkippedMap, ...]
    settings: Settings
