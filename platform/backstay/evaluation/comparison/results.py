"""The results of a comparison: results.json.

A record is one measured value. Its `task` and `metric` define what was measured:

    recommendation    recall@50             Recall@50 of the version on its own window
    retrieval         recall@50             the same with compatible user vectors z̃_0 and M_0's item
                                            vectors, as in an index that is not rebuilt
    <consumer task>   roc_auc               of one consumer (by seed) on compatible vectors
    <consumer task>   negative_flip_rate    share of examples it classified correctly on M_0's own
                                            vectors and classifies wrongly on compatible ones
    <consumer task>   positive_flip_rate    share it classified wrongly and classifies correctly
    <consumer task>   retention             (ROC-AUC - ½) as a share of (ROC-AUC - ½) on M_0's own
    alignment         alignment_error       mean over entities of ‖z̃_0 - z_0*‖₂
    alignment/<slice> alignment_error       the same over a slice, see `SLICES_OF_ENTITIES`

`seed` is the consumer's seed for a consumer task, and the fit's seed otherwise.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

from pydantic import TypeAdapter, ValidationError

from backstay.errors import InputError, UsageError
from backstay.evaluation.metrics.bootstrap import Interval
from backstay.storage.atomic import write_file

RECOMMENDATION = "recommendation"
ALIGNMENT = "alignment"
RETRIEVAL = "retrieval"

Metric = Literal[
    "recall@50",
    "roc_auc",
    "negative_flip_rate",
    "positive_flip_rate",
    "retention",
    "alignment_error",
]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measured value."""

    method: str
    version: int
    task: str
    metric: Metric
    seed: int
    value: float
    interval: Interval | None = None  # by user or item; None: not resampled

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise UsageError(
                f"unknown metric {self.metric!r}; expected one of {', '.join(get_args(Metric))}."
            )
        if not abs(self.value) < float("inf"):
            raise UsageError(
                f"expected a finite value of {self.metric} for {self.method} at version "
                f"{self.version}, found {self.value}; leave out what is undefined, with the reason."
            )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One row of the comparison table; a figure is None if there is nothing to compute it from."""

    method: str
    intended_recall50: float | None
    """Mean Recall@50 over versions."""
    intended_pct: float | None
    """The same relative to `no-bc`, in percent."""
    unintended_auc: float | None
    """Mean over tasks of the mean ROC-AUC over versions and seeds."""
    unintended_pct: float | None
    """The same relative to `fix-m0`, in percent."""
    total_pct: float | None
    """Sum of both percentages."""
    alignment_error: float | None
    """Mean over versions and entities of the distance to M_0's own vectors."""
    fit_seconds: float | None
    """Wall-clock seconds of all the method's fits."""
    peak_rss_mb: float | None
    """Peak resident memory of the fitting process, in MB of 10⁶ bytes."""
    intended_interval: Interval | None = None
    """Of intended_pct, paired with `no-bc` by user."""
    unintended_interval: Interval | None = None
    """Of unintended_pct, paired with `fix-m0` by user, item and consumer seed."""
    total_interval: Interval | None = None
    """Of total_pct."""

    @classmethod
    def blank(cls, method: str) -> Self:
        """A row without figures."""
        figures = [field.name for field in fields(cls) if field.name != "method"]
        return cls(method=method, **dict.fromkeys(figures))


@dataclass(frozen=True, kw_only=True)
class MapFigures:
    """Figures of a map, or chain of maps, from version `source` to an older one."""

    method: str
    source: int  # k
    target: int  # j < k: the map B_k if k - 1, else a chain
    spectral_norm: float  # the most by which the matrix stretches a vector
    condition_number: float | None
    """Of the matrix: greatest over least singular value, ≥ 1; None if it is rank-deficient."""
    alignment_error: float  # mean over k's entities of ‖z̃_j - z_j*‖₂, z_j* by the method's own M_j
    recall: float  # M(new, old): Recall@50 of users z̃_j against items z_j*, on k's window
    old_recall: float  # M(old, old): Recall@50 of z_j* on k's window

    @property
    def compatible(self) -> bool:
        """The criterion of arXiv 2003.11942: M(new, old) > M(old, old)."""
        return self.recall > self.old_recall


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """A method's two figures in bootstrap replicates.

    Replicate b draws the same users, items and consumer seeds for every method, so differences
    between methods are paired.
    """

    method: str
    recall: tuple[float, ...]  # intended_recall50, one per replicate
    auc: tuple[float, ...]  # unintended_auc, one per replicate


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A cell of the comparison that failed."""

    cell: str  # its key's label
    message: str  # the error
    method: str | None = None
    version: int | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """A whole comparison."""

    dataset: dict[str, Any]  # the fields of its DatasetInfo
    protocol: dict[str, Any]  # of the ComparePlan; `left_out` lists the SkippedTask entries
    summary: tuple[Summary, ...]
    records: tuple[Record, ...]
    maps: tuple[MapFigures, ...] = ()
    replicates: tuple[Replicates, ...] = ()
    failures: tuple[Failure, ...] = ()

    def to_json(self) -> str:
        """The text of results.json."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse results.json and ignore unknown fields; InputError names the first wrong field."""
        try:
            return cast("Self", _results.validate_json(text, strict=True))
        except (ValueError, UsageError) as error:
            raise InputError(
                f"expected the results of a comparison, found {_first_defect(error)}; "
                "make them with `backstay compare`."
            ) from error

    def write(self, path: Path) -> None:
        """Write results.json to `path`, atomically."""
        write_file(path, self.to_json().encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read results.json; InputError names the file."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"{path} can't be read ({error.strerror}); make it with `backstay compare`."
            ) from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


_results = TypeAdapter(Results)


def _first_defect(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{first['msg']} at {place}" if place else first["msg"]
