"""Local files that a reader finds whole or not at all, and that survive a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path`, making its folder; a reader finds the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        file.write(content)


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` at the end. After an error, `path` is as before.

    A link is followed. A device or pipe is never replaced: it is written to as it is.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()
    temporary = path.parent / f".{uuid4().hex}.part"
    with synced_file(temporary) as file:
        yield file
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
    sync_folder(path.parent)


@contextmanager
def temporary_file(folder: Path, content: bytes) -> Iterator[Path]:
    """A hidden file in `folder` with `content` on disk, to rename or link; removed at the end."""
    path = folder / f".{uuid4().hex}.part"
    try:
        with synced_file(path) as file:
            file.write(content)
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def synced_file(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing. At the end its bytes are on disk; after an error it is removed."""
    try:
        with path.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk, so that a file created or renamed in it stays."""
    _sync(folder)


def sync_tree(folder: Path, *, contents: bool) -> None:
    """Force every folder from `folder` down to disk; with `contents`, every file too."""
    for above, _, names in os.walk(folder):
        for name in names if contents else ():
            _sync(Path(above, name))
        _sync(Path(above))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
