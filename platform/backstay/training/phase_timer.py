"""Seconds per phase of a fit."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseTimer:
    """Adds up the seconds of each phase. In nested blocks only the outermost one counts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running = False

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the block as time of `phase`."""
        if self._running:
            yield
            return
        self._running, started = True, time.perf_counter()
        try:
            yield
        finally:
            self._running = False
            spent = time.perf_counter() - started
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
