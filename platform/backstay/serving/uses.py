"""When tables were last used that are not in force, and when `latest` was last asked for."""

from collections import Counter
from collections.abc import Callable

from backstay.serving.copies import Key

IDLE_SECONDS = 600.0
"""Without a request for so long, a table that is not in force is closed."""

_MOST_EXTRA = 4  # tables of one space that are open and not in force


class Uses:
    """The last uses in this process. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tables: dict[Key, float] = {}
        self._latest: dict[str, float] = {}  # by space

    def use(self, key: Key) -> None:
        """Note that a table answers which is not in force."""
        self._tables[key] = self._clock()

    def ask_latest(self, space: str) -> None:
        """Note that somebody reads `latest`."""
        self._latest[space] = self._clock()

    def reads_latest(self, space: str) -> bool:
        """Whether somebody read `latest` of a space in the last minutes."""
        return space in self._latest and self._clock() < self._latest[space] + IDLE_SECONDS

    def recent(self) -> set[Key]:
        """The tables to hold open: the last four of each space, if used in the last minutes."""
        now, count = self._clock(), Counter[str]()
        recent = set()
        for key, at in sorted(self._tables.items(), key=lambda item: -item[1]):
            count[key.space] += 1
            if now < at + IDLE_SECONDS and count[key.space] <= _MOST_EXTRA:
                recent.add(key)
            else:
                del self._tables[key]
        return recent
