"""Locks between processes. The kernel frees them when their process ends, however it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class LockedError(Exception):
    """Another process, or another part of this one, holds the lock."""


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, which is made and stays.

    Waits for another holder to release it, or raises LockedError with `wait=False`.
    """
    # The fallback for disks without flock is a lock that outlives a killed process.
    lock = FileLock(path, fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire(blocking=wait)
    except Timeout as error:
        raise LockedError(f"{path} is locked by another writer.") from error
    try:
        yield
    finally:
        lock.release()
