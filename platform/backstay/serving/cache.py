"""Copies on local disk, which all processes of a host share, and restarts reuse.

    <cache>/<root>/<space>/<entity>/<version>-<manifest hash>.f2/   one copy of a table
    <cache>/<root>/<space>/.maps/<version>-<manifest hash>.f2/      one copy of a backward map
    <cache>/<root>.of<S>.<shard>/…                                  the same, of one shard of S

Each copy has a file `cached.json` with the size, SHA-256 and time of its files. Opening a copy
compares sizes and times, which takes no longer for a large table. A file with another time is
hashed. A copy that differs is thrown away and made again, and so is one that changes while it is
open.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from platformdirs import user_cache_path
from pydantic import TypeAdapter, ValidationError

from backstay.errors import CorruptError, ServiceError
from backstay.storage.atomic import write_file
from backstay.storage.folders import new_folder, remove_abandoned
from backstay.storage.locks import LockedError, locked

logger = logging.getLogger("backstay.serving")

FORMAT = 2
"""Version of the cache's format. Copies of another format are not opened, and removed in time."""

_LIST = "cached.json"


@dataclass(frozen=True)
class _Listed:
    """One file of a copy."""

    size: int
    sha256: str
    mtime_ns: int


_listing = TypeAdapter(dict[str, _Listed])


def default_cache() -> str:
    """The default folder for copies of tables: $XDG_CACHE_HOME/backstay or ~/.cache/backstay."""
    return str(user_cache_path("backstay"))


def cache_folder(cache: str | Path, registry: str, part: str = "") -> Path:
    """The folder in `cache` for the tables of one registry, a path or URL.

    `part`: `of<S>.<shard>` for one shard's part of the tables.
    """
    name = hashlib.sha256(registry.encode()).hexdigest()[:16]
    return Path(cache) / (f"{name}.{part}" if part else name)


def evict_other_shards(root: Path) -> None:
    """Remove the unused copies of the same registry that are divided into other shards."""
    name, _, part = root.name.partition(".")
    shards = part.partition(".")[0]
    for other in root.parent.glob(f"{name}*"):
        if other.name.partition(".")[2].partition(".")[0] != shards and other.is_dir():
            for space in other.iterdir():
                if space.is_dir():
                    evict(space, keep=())
            with contextlib.suppress(OSError):  # in use
                _remove_empty(other)


def copy_name(version: int, manifest_sha256: str) -> str:
    """The name of a copy's folder."""
    return f"{version}-{manifest_sha256[:32]}.f{FORMAT}"


class Copy:
    """An opened copy. While this object lives, other processes do not evict the copy."""

    def __init__(self, folder: Path) -> None:
        """Open and check; FileNotFoundError if there is none, CorruptError if it is damaged."""
        self.folder = folder
        self._stamps: list[tuple[int, int, int]] = []  # descriptor, size, time
        descriptors: list[int] = []
        weakref.finalize(self, _close, descriptors)
        if not folder.is_dir():
            raise FileNotFoundError(folder)
        try:
            listing = _listing.validate_json((folder / _LIST).read_bytes())
            for name, listed in sorted(listing.items()):
                descriptors.append(os.open(folder / name, os.O_RDONLY))
                fcntl.flock(descriptors[-1], fcntl.LOCK_SH)
                self._stamps.append((descriptors[-1], listed.size, _time(descriptors[-1])))
                _check(folder / name, descriptors[-1], listed)
        except (OSError, ValidationError) as error:
            raise CorruptError(f"{folder} is no complete copy ({error}).") from error
        times = [time for _, _, time in self._stamps]
        names = sorted(listing)
        found = {n: replace(listing[n], mtime_ns=t) for n, t in zip(names, times, strict=True)}
        if found != listing:  # the content is right: trust it at once the next time
            write_file(folder / _LIST, _listing.dump_json(found))

    def intact(self) -> bool:
        """Whether no file was written to since the copy was opened; takes microseconds."""
        for descriptor, size, time in self._stamps:
            status = os.fstat(descriptor)
            if status.st_size != size or status.st_mtime_ns != time:
                return False
        return True


def open_copy(folder: Path, write: Callable[[Path], None]) -> Copy:
    """Open the copy in `folder`. If there is none, or it is damaged, `write` makes it first.

    `write` gets a new folder to write the files to. If several processes ask for the same copy, one
    makes it and the others wait. A copy appears whole or not at all.
    Raises ServiceError if the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(_lock(folder)):
        try:
            return Copy(folder)
        except FileNotFoundError:
            pass
        except CorruptError as error:
            logger.warning("%s It is thrown away, and fetched again.", error)
            _remove(folder)
        remove_abandoned(folder.parent, name=folder.name)
        with _disk_errors(folder), new_folder(folder) as new:
            write(new)
            _list_files(new)
        return Copy(folder)


def discard(folder: Path) -> None:
    """Throw a copy away, so that the next attempt to open it makes a new one."""
    with locked(_lock(folder)):
        if folder.is_dir():
            _remove(folder)


def require_space(folder: Path, size: int) -> None:
    """ServiceError unless the disk of `folder` has `size` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ServiceError(
            f"a copy in {folder.parent} needs {size} bytes; found {free} bytes free. Free the "
            "disk, or choose another folder with --cache."
        )


def evict(space: Path, *, keep: Collection[Path]) -> None:
    """Remove the copies of one space that are not in `keep` and that no process has open."""
    for folder in space.glob("*/*"):
        if folder.is_dir() and folder not in keep and not folder.name.startswith("."):
            remove_unused(folder)
    if not any(folder.is_relative_to(space) for folder in keep):
        _remove_empty(space)


def remove_unused(folder: Path) -> bool:
    """Remove a copy unless a process has it open, makes or opens it; whether it was removed."""
    try:
        with locked(_lock(folder), wait=False):
            if _in_use(folder):
                return False
            logger.info("removing the copy %s", folder)
            _remove(folder)
            _lock(folder).unlink(missing_ok=True)
            return True
    except LockedError:
        return False


def _remove_empty(space: Path) -> None:
    """Remove the folders of a dropped space in which nothing is left but locks."""
    for folder in [*space.glob("*"), space]:
        with contextlib.suppress(OSError):  # a process that still serves it writes there
            entries = list(folder.iterdir())
            if all(entry.suffix == ".lock" for entry in entries):
                for entry in entries:
                    entry.unlink()
                folder.rmdir()


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _in_use(folder: Path) -> bool:
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def _remove(folder: Path) -> None:
    """Remove a copy at once, whatever stops this process; who has it open can go on reading."""
    gone = folder.with_name(f".{folder.name}.{uuid4().hex}.partial")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _list_files(folder: Path) -> None:
    listing = {}
    for path in sorted(folder.iterdir()):
        if path.name != _LIST:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                status = os.fstat(file.fileno())
            listing[path.name] = _Listed(status.st_size, sha256, status.st_mtime_ns)
    write_file(folder / _LIST, _listing.dump_json(listing))


def _check(path: Path, descriptor: int, listed: _Listed) -> None:
    size = os.fstat(descriptor).st_size
    if size != listed.size:
        raise CorruptError(f"{path} should have {listed.size} bytes; found {size}.")
    if _time(descriptor) != listed.mtime_ns:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != listed.sha256:
            raise CorruptError(f"{path} should have SHA-256 {listed.sha256}; found {found}.")


def _time(descriptor: int) -> int:
    return os.fstat(descriptor).st_mtime_ns


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise ServiceError(
            f"the disk of {folder.parent} is full ({error.strerror}). Free it, or choose another "
            "folder with --cache."
        ) from error
