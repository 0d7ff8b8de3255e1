"""The access log: a line of JSON for each request, written by a thread of its own.

No request waits for the log. If the disk or the reader of a pipe is slower than the requests,
lines are dropped and counted.
"""

import logging
import os
import queue
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

import orjson

from backstay.errors import UsageError

logger = logging.getLogger("backstay.serving")

OFF: Final = "off"
STDOUT: Final = "-"

_MOST_WAITING = 20_000  # lines
_AT_ONCE = 500  # lines in one write
_WARN_SECONDS = 60.0  # between two warnings that the log can't be written

Field = str | int | float | None


class AccessLog:
    """Writes to `target`: a file, `-` for standard output, or `off`.

    A file that was renamed or removed, as logrotate does, is opened anew. Replicas of one host can
    share a file. Raises UsageError if the file can't be opened.
    """

    def __init__(self, target: str = OFF) -> None:
        self.dropped = 0
        self.on = target != OFF
        self._target = target
        self._lines: queue.Queue[dict[str, Field] | None] = queue.Queue(_MOST_WAITING)
        self._warned = -_WARN_SECONDS
        self._torn = False
        self._thread: threading.Thread | None = None
        if self.on:
            self._file = _open(target)
            self._thread = threading.Thread(target=self._write, name="backstay-log", daemon=True)
            self._thread.start()

    def write(self, fields: dict[str, Field]) -> None:
        """Write a line with the time and these fields, later and in another thread."""
        try:
            self._lines.put_nowait({"time": time.time(), **fields})
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, and close the file."""
        if self._thread:
            self.on = False
            self._lines.put(None)
            self._thread.join()
            self._thread = None

    def _write(self) -> None:
        ended = False
        while not ended:
            lines = [self._lines.get()]
            while lines[-1] is not None and len(lines) < _AT_ONCE and not self._lines.empty():
                lines.append(self._lines.get())
            ended = lines[-1] is None
            text = b"".join(_line(line) for line in lines if line is not None)
            try:
                self._reopen_if_moved()
                self._put(text)
            except (OSError, UsageError) as error:
                self.dropped += text.count(b"\n")
                if time.monotonic() >= self._warned + _WARN_SECONDS:
                    self._warned = time.monotonic()
                    logger.warning("the access log can't be written: %s", error)
        if self._target != STDOUT:
            self._file.close()

    def _put(self, text: bytes) -> None:
        if self._torn:
            text = b"\n" + text  # ends the line that a full disk cut
        self._torn = True
        while text:
            text = text[self._file.write(text) :]
        self._file.flush()
        self._torn = False

    def _reopen_if_moved(self) -> None:
        if self._target == STDOUT:
            return
        try:
            present = Path(self._target).stat()
        except FileNotFoundError:
            present = None
        if present is None or not os.path.samestat(present, os.fstat(self._file.fileno())):
            before, self._file = self._file, _open(self._target)
            before.close()


def _open(target: str) -> BinaryIO:
    if target == STDOUT:
        return sys.stdout.buffer
    try:
        # Unbuffered: each batch of lines is one append, so lines of processes do not mix.
        return Path(target).open("ab", buffering=0)
    except OSError as error:
        raise UsageError(
            f"--access-log must be a file that can be written, `-` or `off`; found {target} "
            f"({error.strerror})."
        ) from error


def _line(fields: dict[str, Field]) -> bytes:
    moment = datetime.fromtimestamp(float(fields["time"] or 0), UTC)
    text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return orjson.dumps({**fields, "time": text}) + b"\n"
