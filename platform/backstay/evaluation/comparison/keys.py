"""Keys of a comparison's cells. A key's type states what its cell returns.

FitKey(2, "bc-aligner")      fit version 2 by bc-aligner
FitKey(0)                    fit version 0, which all methods share
TrainKey("edge_rating")      train consumers of edge_rating
JudgeKey(2, "bc-aligner")    judge version 2 by bc-aligner
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from backstay.evaluation.comparison.results import Failure
from backstay.evaluation.comparison.values import Fitted, Judgement
from backstay.evaluation.consumers.labels import TaskName
from backstay.evaluation.consumers.model import Consumer

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class CellKey(Generic[T_co]):
    """Identifies a cell that returns a T_co."""

    @property
    def label(self) -> str:
        """The cell's name in logs, messages and results.json."""
        raise NotImplementedError

    @property
    def folder(self) -> str:
        """The name of the cell's folder in a cell store."""
        return self.label.replace(" ", "-")


@dataclass(frozen=True)
class FitKey(CellKey[Fitted]):
    """Fits one version."""

    version: int
    method: str | None = None  # None for version 0

    @property
    def label(self) -> str:  # noqa: D102 - see CellKey
        return f"fit version {self.version}" + (f" by {self.method}" if self.method else "")


@dataclass(frozen=True)
class TrainKey(CellKey[list[Consumer]]):
    """Trains the consumers of one task, one per seed."""

    task: TaskName

    @property
    def label(self) -> str:  # noqa: D102 - see CellKey
        return f"train consumers of {self.task}"


@dataclass(frozen=True)
class JudgeKey(CellKey[Judgement]):
    """Judges one version by one method."""

    version: int
    method: str

    @property
    def label(self) -> str:  # noqa: D102 - see CellKey
        return f"judge version {self.version} by {self.method}"


class Outputs:
    """Outputs of finished cells by key, in the order added; a Failure if the cell failed."""

    def __init__(self, known: Mapping[CellKey[object], object] | None = None) -> None:
        self._values = dict(known or {})

    def add(self, key: CellKey[object], value: object) -> None:
        """Add the output of a cell, or its Failure."""
        self._values[key] = value

    def copy(self) -> "Outputs":
        """A copy that may grow on its own."""
        return Outputs(self._values)

    def __contains__(self, key: CellKey[object]) -> bool:
        return key in self._values

    def __getitem__(self, key: CellKey[T]) -> T:
        """The output of a cell that has finished without failure."""
        value = self._values[key]
        if isinstance(value, Failure):
            raise KeyError(key)
        return cast("T", value)

    def get(self, key: CellKey[T]) -> T | None:
        """The output of a cell; None if it failed or is not there."""
        value = self._values.get(key)
        return None if isinstance(value, Failure) else cast("T | None", value)

    def failure(self, key: CellKey[object]) -> Failure | None:
        """The failure of a cell; None if it did not fail."""
        value = self._values[key]
        return value if isinstance(value, Failure) else None

    def outcome(self, key: CellKey[T]) -> T | Failure:
        """The output of a cell or its failure."""
        return cast("T | Failure", self._values[key])

    def failures(self) -> Iterator[tuple[CellKey[object], Failure]]:
        """The cells that failed, in the order added."""
        for key, value in self._values.items():
            if isinstance(value, Failure):
                yield key, value
