"""What one replica counts. `monitor` shares it with all replicas, `exposition` shows it."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Self

from backstay.serving.wire import ARROW, BINARY, JSON, Format

if TYPE_CHECKING:
    from backstay.serving.found import Found

BUCKETS = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds in seconds of the buckets of a latency histogram; above them is one more."""

_MOST_SERIES = 2_000  # then requests and ids are counted without space, version and format
_OTHER = "other"


class Outcome(NamedTuple):
    """The outcome of a look-up. All names in it are those of the registry, not a client's."""

    space: str
    entity: str
    version: int  # version whose space the vectors are in
    source_version: int  # version of the table that they come from
    ids: int
    found: int
    format: str  # see `format_name`

    @classmethod
    def of(cls, found: "Found", format_: Format) -> Self:
        """The outcome of a look-up that is answered in a format."""
        return cls(
            found.space, found.entity, found.version, found.source_version,
            len(found.asked), len(found.values), format_name(format_),
        )  # fmt: skip


class Labels(NamedTuple):
    """What tells the series of requests apart. Each value comes from a bounded set."""

    method: str
    route: str  # template, not path
    status: int
    space: str = ""  # empty: none, or one that is not served
    version: str = ""  # empty: no vectors were looked up
    format: str = ""


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of one series."""

    counts: tuple[int, ...]  # per bucket, not cumulative; one more than BUCKETS
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Ids:
    """The ids of the look-ups of one series."""

    found: int
    unknown: int


Entity = tuple[str, str, str]  # space, entity, version


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What a replica counted since it started."""

    requests: Mapping[Labels, Requests]
    ids: Mapping[Entity, Ids]


class Metrics:
    """Counts the requests of one app. Used in its event loop only, so without locks."""

    def __init__(self) -> None:
        self._requests: dict[Labels, list[float]] = {}  # counts of buckets, seconds, bytes
        self._ids: dict[Entity, list[int]] = {}

    def answered(
        self, labels: Labels, *, seconds: float, size: int, outcome: Outcome | None
    ) -> None:
        """Count a request; `size`: bytes of the answer's body."""
        series = self._requests.get(labels)
        if series is None:
            if len(self._requests) >= _MOST_SERIES:
                labels = labels._replace(space=_OTHER, version="", format="")
            series = self._requests.setdefault(labels, [0] * (len(BUCKETS) + 1) + [0.0, 0])
        series[bisect_left(BUCKETS, seconds)] += 1
        series[-2] += seconds
        series[-1] += size
        if outcome is not None:
            entity = outcome.space, outcome.entity, str(outcome.version)
            ids = self._ids.get(entity)
            if ids is None:
                if len(self._ids) >= _MOST_SERIES:
                    entity = (_OTHER, "", "")
                ids = self._ids.setdefault(entity, [0, 0])
            ids[0] += outcome.found
            ids[1] += outcome.ids - outcome.found

    def counted(self) -> Counted:
        """A copy of what was counted."""
        return Counted(
            requests={
                labels: Requests(
                    tuple(int(count) for count in series[:-2]), series[-2], int(series[-1])
                )
                for labels, series in self._requests.items()
            },
            ids={entity: Ids(*series) for entity, series in self._ids.items()},
        )


@cache
def format_name(format_: Format) -> str:
    """The name of a format in metrics and logs, such as `arrow-float16`."""
    short = {JSON: "json", ARROW: "arrow", BINARY: "binary"}[format_.media_type]
    return short + ("-float16" if format_.dtype == "float16" else "")


def quantile(counts: tuple[int, ...], q: float) -> float | None:
    """A quantile in seconds of a histogram's counts per bucket; None without requests.

    It is interpolated within its bucket, as Prometheus does; in the last one it is its lower bound.
    """
    total = sum(counts)
    if not total:
        return None
    rank, below = q * total, 0
    for index, count in enumerate(counts[:-1]):
        if count and below + count >= rank:
            low = BUCKETS[index - 1] if index else 0.0
            return low + (BUCKETS[index] - low) * (rank - below) / count
        below += count
    return BUCKETS[-1]
