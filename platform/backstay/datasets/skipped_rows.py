"""Rows that a reader leaves out: how many and why."""

import logging
import time
from pathlib import Path

from backstay.errors import InputError

logger = logging.getLogger("backstay.datasets")

PROGRESS_SECONDS = 5.0
_SHOWN = 60  # characters of a broken line that a message quotes


class BrokenRowError(Exception):
    """One row can't be read; its text is the reason it is counted under."""


class SkippedRows:
    """Counts the rows that a reader leaves out, by reason, and logs its progress."""

    def __init__(self, *, strict: bool = False) -> None:
        self.counts: dict[str, int] = {}  # reason -> rows left out so far
        self._strict = strict
        self._first: dict[str, str] = {}
        self._rows = self._bytes = 0
        self._next_report = time.monotonic() + PROGRESS_SECONDS

    def add(self, path: Path, place: str, reason: str, *, text: str = "", rows: int = 1) -> None:
        """Count rows as left out, or raise InputError if `strict`.

        `place`, such as "line 7", is that of the first row.
        """
        if self._strict:
            shown = f" ({text[:_SHOWN]!r})" if text else ""
            raise InputError(
                f"{path}, {place}: {reason}{shown}. Correct it, or read without --strict to skip "
                "and count such rows."
            )
        self.counts[reason] = self.counts.get(reason, 0) + rows
        self._first.setdefault(reason, f"{path}, {place}")

    def advance(self, path: Path, *, rows: int, size: int) -> None:
        """Count rows and bytes of `path` as read; log the totals every 5 s."""
        self._rows += rows
        self._bytes += size
        if time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + PROGRESS_SECONDS
            logger.info(
                "read %s rows, %s MB, now in %s",
                f"{self._rows:,}",
                f"{self._bytes / 1e6:,.0f}",
                path.name,
            )

    def summary(self) -> str:
        """Every reason with its count and first place, in one line."""
        return "; ".join(
            f"{count:,} × {reason} (first: {self._first[reason]})"
            for reason, count in self.counts.items()
        )
