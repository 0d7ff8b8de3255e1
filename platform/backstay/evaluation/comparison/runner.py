"""Where the cells of a comparison run: a small contract, and the plainest way to meet it."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from backstay.evaluation.comparison.results import Failure

log = logging.getLogger("backstay.compare")


class Runner(Protocol):
    """Where cells run. What `submit` returns may be passed on to further cells at once."""

    def share(self, value: Any) -> Any:
        """Make a value available to all cells; what comes back stands for it."""

    def submit(self, label: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Have a cell run: a promise of its result or Failure, which later cells may be given."""

    def finished(self) -> Iterator[tuple[str, Any]]:
        """The label and the result (or Failure) of every submitted cell, each as it comes."""


class Here:
    """This process, one cell after the other, in the order they were submitted."""

    def __init__(self) -> None:
        self._waiting: deque[_Promise] = deque()

    def share(self, value: Any) -> Any:
        """The value itself."""
        return value

    def submit(self, label: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A promise, kept when `finished` comes to it."""
        self._waiting.append(_Promise(label, function, args, options))
        return self._waiting[-1]

    def finished(self) -> Iterator[tuple[str, Any]]:
        """Run what was submitted."""
        while self._waiting:
            promise = self._waiting.popleft()
            log.info("%s …", promise.label)
            yield promise.label, promise.keep()


@dataclass
class _Promise:
    label: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]
    value: Any = None

    def keep(self) -> Any:
        """Run the cell, and let go of what it was given."""
        args = [_value(part) for part in self.args]
        options = {name: _value(part) for name, part in self.options.items()}
        self.args, self.options = (), {}
        self.value = run_cell(self.label, self.function, *args, **options)
        return self.value


def _value(part: Any) -> Any:
    return part.value if isinstance(part, _Promise) else part


def run_cell(label: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a cell; a Failure in place of its result where it raises.

    A cell that is given the Failure of another one fails for want of it. Only judging goes on
    without the consumers of a task: see `cells.judge_cell`.
    """
    missing = next((part for part in (*args, *options.values()) if _stops(part)), None)
    if missing is not None:
        return Failure(cell=label, message=f"it needs the result of: {missing.cell}")
    try:
        return function(*args, **options)
    except Exception as error:  # whatever it is, the other cells go on
        log.debug("%s failed", label, exc_info=True)
        return failure(label, error)


def failure(label: str, error: BaseException) -> Failure:
    """What an exception says of a cell."""
    return Failure(cell=label, message=f"{type(error).__name__}: {error}")


def _stops(part: Any) -> bool:
    return isinstance(part, Failure) and not part.cell.startswith(CONSUMERS)


CONSUMERS = "train consumers of"
"""How the labels of cells begin whose failure leaves a task out, and stops nothing."""
