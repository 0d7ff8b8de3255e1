"""Loads tables and maps in the background, so that no request waits for a copy."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger("backstay.serving")


class Item(Protocol):
    """The key of an item: hashable, with its name as text."""

    @property
    def space(self) -> str:
        """The space that it belongs to."""


K = TypeVar("K", bound=Item)
V = TypeVar("V")

_AT_ONCE = 8  # most spaces that copy at the same time
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 300.0  # seconds between two attempts


@dataclass(frozen=True)
class Failure:
    """A load that failed."""

    reason: str
    attempts: int
    again: float  # time.monotonic() before which there is no other attempt

    @property
    def seconds(self) -> float:
        """Seconds until the next attempt."""
        return max(self.again - time.monotonic(), 0.0)


class Loader(Generic[K, V]):
    """Loads what is wanted, one item after the other for each space, all spaces at the same time.

    After a failure it waits before the next attempt: 1 s, then twice as long each time up to 300 s,
    less a random part, so that replicas do not repeat all together.
    """

    def __init__(self, load: Callable[[K], V]) -> None:
        self.failed = 0  # attempts
        self._load = load
        self._loaded: dict[K, V] = {}
        self._failures: dict[K, Failure] = {}
        self._queues: dict[str, deque[K]] = {}  # of the spaces that have a thread
        self._at_once = threading.BoundedSemaphore(_AT_ONCE)
        self._changed = threading.Condition()
        self.changes = 0  # grows with each item that is loaded or dropped

    def get(self, key: K) -> V | None:
        """The item if it is loaded."""
        return self._loaded.get(key)

    def failure(self, key: K) -> Failure | None:
        """Why the last attempt to load an item failed; None if it did not."""
        return self._failures.get(key)

    def loaded(self) -> list[K]:
        """The items that are loaded."""
        return list(self._loaded)

    def want(self, key: K, *, now: bool = False) -> None:
        """Load an item in the background, unless it waits after a failure; `now`: even then."""
        if key in self._loaded:
            return
        with self._changed:
            failure = self._failures.get(key)
            if key in self._loaded or (failure and failure.seconds and not now):
                return
            queue = self._queues.get(key.space)
            if queue is None:
                self._queues[key.space] = deque([key])
                name = f"backstay-load-{key.space}"
                threading.Thread(
                    target=self._work, args=[key.space], name=name, daemon=True
                ).start()
            elif key not in queue:
                queue.append(key)

    def wait(self, *, seconds: float | None = None) -> bool:
        """Wait until nothing is being loaded; whether that happened in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queues, seconds)

    def drop(self, unwanted: Collection[K]) -> None:
        """Forget items and their failures; requests that use one keep it until they end."""
        with self._changed:
            for key in unwanted:
                self._loaded.pop(key, None)
                self._failures.pop(key, None)
            self.changes += bool(unwanted)

    def _work(self, space: str) -> None:
        """Load what is in the queue of a space; its first entry is the one being loaded."""
        while True:
            with self._changed:
                queue = self._queues[space]
                key = queue[0]
            try:
                with self._at_once:
                    value = self._load(key)
            except Exception as error:  # noqa: BLE001 - drivers of stores raise errors of their own
                self._failed(key, error)
            else:
                with self._changed:
                    self._loaded[key] = value
                    self._failures.pop(key, None)
                    self.changes += 1
                del value  # else this thread would keep it open
            with self._changed:
                queue.popleft()
                if not queue:
                    del self._queues[space]
                self._changed.notify_all()
                if not queue:
                    return

    def _failed(self, key: K, error: Exception) -> None:
        with self._changed:
            self.failed += 1
            before = self._failures.get(key)
            attempts = before.attempts + 1 if before else 1
            wait = min(_FIRST_WAIT * 2.0 ** (attempts - 1), _LONGEST_WAIT)
            wait *= random.uniform(0.5, 1.0)  # noqa: S311 - only to spread the attempts
            reason = str(error) or type(error).__name__
            self._failures[key] = Failure(reason, attempts, time.monotonic() + wait)
        logger.warning("%s can't be loaded; next attempt in %.0f s: %s", key, wait, reason)
