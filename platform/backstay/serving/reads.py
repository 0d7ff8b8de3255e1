"""Reads of a store that may hang: each in a thread of its own, with a time limit."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")

_AT_ONCE = 16


class TimedReads:
    """Runs reads, and stops waiting for those that take too long.

    A read that hangs keeps its thread. It is not started again before it has ended.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: dict[str, threading.Thread] = {}
        self._at_once = threading.BoundedSemaphore(_AT_ONCE)

    def run(self, reads: Mapping[str, Callable[[], T]]) -> dict[str, T | Exception]:
        """The results of the reads by name; for one that fails or takes too long, the error."""
        results: dict[str, T | Exception] = {}
        end = time.monotonic() + self._seconds
        started = []
        for name, read in reads.items():
            if name not in self._running:
                thread = threading.Thread(
                    target=self._run, args=[name, read, results], name="backstay-read", daemon=True
                )
                self._running[name] = thread
                started.append(thread)
                thread.start()
        for thread in started:
            thread.join(max(0.0, end - time.monotonic()))
        late = TimeoutError(f"the registry has not answered for {self._seconds:g} s.")
        found = dict(results)  # a late read may still add to `results`
        return {name: found.get(name, late) for name in reads}

    def one(self, name: str, read: Callable[[], T]) -> T:
        """The result of one read; raises its error, or TimeoutError."""
        result = self.run({name: read})[name]
        if isinstance(result, Exception):
            raise result
        return result

    def _run(self, name: str, read: Callable[[], T], results: dict[str, T | Exception]) -> None:
        try:
            with self._at_once:
                results[name] = read()
        except Exception as error:  # noqa: BLE001 - drivers of stores raise errors of their own
            results[name] = error
        finally:
            self._running.pop(name, None)
