"""results.json: what a comparison found (design, section 6).

A record is one measured value. What is measured, by `task` and `metric`:

    recommendation   recall@50            Recall@50 of the version on its own window
    recommendation   recall@50_se         its standard error over users
    recommendation   recall@50_gap_se     standard error over users of the difference to no-bc
    <consumer task>  roc_auc              of one consumer (by seed) on version-0-compatible vectors
    alignment        alignment_error      mean over entities of ‖z̃_0 − z_0*‖₂

`seed` is the consumer's seed for a consumer task, and the fit's seed otherwise.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from backstay.errors import InputError, UsageError
from backstay.evaluation.files import write_whole

RECOMMENDATION = "recommendation"
ALIGNMENT = "alignment"

Metric = Literal["recall@50", "recall@50_se", "recall@50_gap_se", "roc_auc", "alignment_error"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measured value."""

    method: str
    version: int
    task: str
    metric: Metric
    seed: int
    value: float

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
    """One method in the comparison table; None where a figure has nothing to be made of."""

    method: str
    intended_recall50: float | None
    """Mean Recall@50 over versions."""
    intended_pct: float | None
    """The same against `no-bc`, in percent."""
    unintended_auc: float | None
    """Mean over tasks of the mean ROC-AUC over versions and seeds."""
    unintended_pct: float | None
    """The same against `fix-m0`, in percent."""
    total_pct: float | None
    """Sum of both percentages."""
    alignment_error: float | None
    """Mean over versions and entities of the distance to M_0's own vectors."""
    fit_seconds: float | None
    """Wall-clock seconds of all the method's fits."""
    peak_rss_mb: float | None
    """Greatest resident memory of the fitting process, in MB of 10⁶ bytes."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """A whole comparison."""

    dataset: dict[str, Any]  # what DatasetInfo says
    protocol: dict[str, Any]  # slices, dims, epochs, consumers …; `left_out` lists LeftOut entries
    summary: tuple[Summary, ...]
    records: tuple[Record, ...]

    def to_json(self) -> str:
        """The text of results.json."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the text of results.json; fields this version doesn't know are left out.

        Raises:
            InputError: the text isn't such a document; the message says where.
        """
        try:
            raw = json.loads(text)
            return cls(
                dataset=dict(raw["dataset"]),
                protocol=dict(raw["protocol"]),
                summary=tuple(Summary(**_checked(Summary, entry)) for entry in raw["summary"]),
                records=tuple(Record(**_checked(Record, entry)) for entry in raw["records"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(
                f"expected the results of a comparison, found {what}; "
                "make them with `backstay compare`."
            ) from error

    def write(self, path: Path) -> None:
        """Write results.json to `path`, whole or not at all."""
        write_whole(path, self.to_json().encode())

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


_TYPES: dict[str, type | tuple[type, ...]] = {
    "method": str,
    "task": str,
    "metric": str,
    "version": int,
    "seed": int,
}


def _checked(kind: type[Summary | Record], entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of `kind` out of a parsed entry, each of its type."""
    values = {field.name: entry[field.name] for field in fields(kind)}
    for name, value in values.items():
        if kind is Summary and value is None and name != "method":
            continue
        if isinstance(value, bool) or not isinstance(value, _TYPES.get(name, (int, float))):
            raise ValueError(f"{name} = {value!r} in {entry}")  # noqa: TRY004 - one clause reports
    return values
