"""Where the cells of a comparison run: a protocol, and its simplest implementation."""

import logging
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from backstay.evaluation.comparison.keys import CellKey, Outputs
from backstay.evaluation.comparison.results import Failure
from backstay.evaluation.comparison.values import Data

log = logging.getLogger("backstay.compare")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Cell(Protocol[T_co]):
    """One piece of a comparison's work. It is pickled to run in another process."""

    @property
    def key(self) -> CellKey[T_co]:
        """Identifies the cell."""

    @property
    def needs(self) -> tuple[CellKey[object], ...]:
        """The cells whose outputs it needs. It fails if one of them failed."""

    @property
    def uses(self) -> tuple[CellKey[object], ...]:
        """The cells whose outputs it uses, but also runs without."""

    @property
    def own_process(self) -> bool:
        """Whether it needs a process of its own, because it measures the process's peak memory."""

    def run(self, data: Data, outputs: Outputs) -> T_co:
        """Run the cell, given the outputs of the cells that it needs and uses."""


class Runner(Protocol):
    """Where cells run."""

    def run(
        self, cells: Iterable[Cell[object]], data: Data, known: Outputs
    ) -> Iterator[tuple[CellKey[object], object]]:
        """Run cells, and yield each one's key and output (or Failure) as it finishes.

        Each cell comes after those that it needs and uses, unless their outputs are `known`.
        """


class InProcess:
    """Runs cells in this process, one after the other, in the order given."""

    def run(
        self, cells: Iterable[Cell[object]], data: Data, known: Outputs
    ) -> Iterator[tuple[CellKey[object], object]]:
        """See Runner."""
        outputs = known.copy()
        for cell in cells:
            log.info("%s …", cell.key.label)
            value = run_cell(cell, data, *map(outputs.outcome, inputs_of(cell)))
            outputs.add(cell.key, value)
            yield cell.key, value


def inputs_of(cell: Cell[object]) -> tuple[CellKey[object], ...]:
    """The keys of all outputs that `run_cell` takes, in their order."""
    return (*cell.needs, *cell.uses)


def run_cell(cell: Cell[T], data: Data, *inputs: object) -> T | Failure:
    """Run a cell on the outputs of `inputs_of(cell)`; a Failure if it raises.

    A cell that needs the output of a failed cell fails too.
    """
    outputs = Outputs(dict(zip(inputs_of(cell), inputs, strict=True)))
    for key in cell.needs:
        if (missing := outputs.failure(key)) is not None:
            return Failure(cell=cell.key.label, message=f"it needs the result of: {missing.cell}")
    try:
        return cell.run(data, outputs)
    except Exception as error:  # whatever it is, the other cells go on
        log.debug("%s failed", cell.key.label, exc_info=True)
        return failure(cell.key, error)


def failure(key: CellKey[object], error: BaseException) -> Failure:
    """The failure of a cell that raised an error."""
    return Failure(cell=key.label, message=f"{type(error).__name__}: {error}")
