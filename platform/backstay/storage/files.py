"""The few file operations that storing needs, on a local folder or any fsspec file system.

`create` makes a file with all its bytes, or finds that someone else has made it. Local folders do
it with a hard link, object stores with a conditional put. Nothing relies on renames: object stores
have none.
"""

import contextlib
import errno
import hashlib
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO
from uuid import uuid4

import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from backstay.errors import RegistryError
from backstay.storage.atomic import sync_folder, sync_tree, synced_file, temporary_file
from backstay.storage.conditional_put import CONDITIONAL_PUT, put_new
from backstay.storage.stores import not_opened, options_of

HALF_WRITTEN = ".tmp-"
"""Prefix of a local file that is being written, beside the name it will get."""

TEMPORARY = ".tmp"
"""Folder under the root for unfinished files; those of killed writers stay there, unread."""

_PUT_ATTEMPTS = 5

_memory_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """Size and hash of a file's bytes."""

    size: int  # bytes
    sha256: str  # hexadecimal


class HashedFile:
    """A file being written: counts and hashes what passes through."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._hash = hashlib.sha256()
        self._size = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Write `data`, any object with the buffer protocol."""
        self._raw.write(data)
        self._hash.update(data)
        written = memoryview(data).nbytes
        self._size += written
        return written

    def flush(self) -> None:
        """Do nothing: the bytes are forced out once, at the end."""

    @property
    def digest(self) -> FileDigest:
        """Size and SHA-256 of what has been written."""
        return FileDigest(size=self._size, sha256=self._hash.hexdigest())


class Files:
    """Files under one root on an object store; the subclasses are for other file systems.

    Paths are relative to the root, with `/`; the empty path is the root.
    """

    is_local = False  # whether `root` is a folder of this machine

    def __init__(self, fs: AbstractFileSystem, root: str) -> None:
        self.fs = fs  # the fsspec file system
        self.root = root.rstrip("/")  # the root's path in `fs`
        self._proved = False

    def full(self, path: str) -> str:
        """The path in `fs`."""
        return f"{self.root}/{path}" if path else self.root

    def read(self, path: str) -> bytes:
        """Return the bytes of a file; FileNotFoundError where there is none."""
        return bytes(self.fs.cat_file(self.full(path)))

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self.fs.exists(self.full(path)))

    def modified(self, path: str) -> datetime:
        """When a file was written last."""
        when: datetime = self.fs.modified(self.full(path))
        return when if when.tzinfo else when.replace(tzinfo=UTC)

    def folders(self, path: str) -> list[str]:
        """The names of the folders in a folder, sorted."""
        try:
            found = self.fs.ls(self.full(path), detail=True)
        except FileNotFoundError:
            return []
        return sorted(
            PurePosixPath(info["name"]).name for info in found if info["type"] == "directory"
        )

    def find(self, path: str) -> dict[str, int]:
        """Every file under a folder: path relative to that folder -> size in bytes."""
        start = len(self.full(path)) + 1
        found = self.fs.find(self.full(path), detail=True)
        return {name[start:]: info["size"] for name, info in sorted(found.items())}

    def source(self, path: str) -> pa.NativeFile:
        """Open a file for pyarrow to read; a context manager."""
        return self.fs.open(self.full(path), "rb")

    @contextlib.contextmanager
    def writer(self, path: str) -> Iterator[HashedFile]:
        """Open a new file for writing; after an error nothing of it stays."""
        try:
            with self.fs.open(self.full(path), "wb") as raw:
                yield HashedFile(raw)
        except BaseException:
            # fsspec completes the upload of a file that is closed, whatever closed it.
            self.remove(path)
            raise

    def write(self, path: str, data: bytes) -> None:
        """Write a small file whole, over whatever is there."""
        self.fs.pipe_file(self.full(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file whole unless there is one; False where someone else has made it."""
        if not CONDITIONAL_PUT.intersection(_protocols(self.fs)):
            raise RegistryError(
                f"can't publish to {self.fs.unstrip_protocol(self.root)}: its file system has no "
                "exclusive create, so two publishers could overwrite each other. Expected a local "
                f"folder or one of {', '.join(sorted(CONDITIONAL_PUT))}; found {self.fs.protocol}."
            )
        self._prove_exclusive()
        for _ in range(_PUT_ATTEMPTS):
            if put_new(self.fs, self.full(path), data):
                return True
            # If the answer to a request was lost, its retry finds the file of the first try.
            with contextlib.suppress(FileNotFoundError):  # the other writer failed: try again
                return self.read(path) == data
        return False

    def _prove_exclusive(self) -> None:
        """Refuse a store that treats a conditional put as a plain one, as some older ones do."""
        if self._proved:
            return
        probe = f"{TEMPORARY}/{uuid4().hex}"
        full = self.full(probe)
        try:
            if not put_new(self.fs, full, b"1") or put_new(self.fs, full, b"2"):
                raise RegistryError(
                    f"can't publish to {self.fs.unstrip_protocol(self.root)}: expected a store "
                    "that refuses a conditional put over an existing object; this one overwrote "
                    "it. Upgrade the store and its fsspec driver (s3fs, gcsfs, adlfs)."
                )
        finally:
            self.remove(probe)
        self._proved = True

    def place(self, source: str, target: str) -> None:
        """Make `target` the same file as `source`, over whatever is there; `source` stays."""
        self.fs.cp_file(self.full(source), self.full(target))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all its files; does nothing where there is none."""
        found = list(self.fs.find(self.full(path)))
        if found:
            self.fs.rm(found)

    def sync(self, path: str) -> None:
        """Return once the files written under a folder would survive a power cut."""
        # an object that was acknowledged is durable


class MemoryFiles(Files):
    """Files of this process only, for tests and trials."""

    def source(self, path: str) -> pa.NativeFile:
        """Open a copy: fsspec gives all readers of a memory file one position."""
        return pa.BufferReader(self.read(path))

    def create(self, path: str, data: bytes) -> bool:
        """Create under a lock: only threads of this process can race."""
        with _memory_lock:
            if self.exists(path):
                return self.read(path) == data
            self.write(path, data)
            return True


class LocalFiles(Files):
    """Files in a local folder."""

    is_local = True

    def source(self, path: str) -> pa.NativeFile:
        """Open the file itself."""
        return pa.OSFile(self.full(path), "rb")

    @contextlib.contextmanager
    def writer(self, path: str) -> Iterator[HashedFile]:
        """Force the bytes to disk before they count as written."""
        target = Path(self.full(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{HALF_WRITTEN}{uuid4().hex}")
        with synced_file(temporary) as raw:
            yield HashedFile(raw)
        temporary.replace(target)

    def write(self, path: str, data: bytes) -> None:
        """Rename over what is there."""
        with self._temporary(path, data) as temporary:
            temporary.replace(self.full(path))

    def create(self, path: str, data: bytes) -> bool:
        """Hard-link a whole file, which fails if the name is taken."""
        with self._temporary(path, data) as temporary:
            try:
                Path(self.full(path)).hardlink_to(temporary)
            except FileExistsError:
                return self.read(path) == data  # on NFS even the creator may get this error
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                raise RegistryError(
                    f"can't publish to {self.root}: expected a file system with hard links, which "
                    f"is how a version is created by one publisher only; found one without "
                    f"({error.strerror}). Put the registry on a local disk, NFS or an object store."
                ) from error
        return True

    def place(self, source: str, target: str) -> None:
        """Hard-link: no byte is copied."""
        path = Path(self.full(target))
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(self.full(TEMPORARY))
        hidden.mkdir(exist_ok=True)
        temporary = hidden / uuid4().hex
        temporary.hardlink_to(self.full(source))
        temporary.replace(path)
        temporary.unlink(missing_ok=True)  # a rename onto another link of the same file keeps both

    def remove(self, path: str) -> None:
        """Remove a file or folder."""
        target = Path(self.full(path))
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def sync(self, path: str) -> None:
        """Force the folders themselves to disk, and those above that name them."""
        sync_tree(Path(self.full(path)), contents=False)
        for above in PurePosixPath(path).parents:
            sync_folder(Path(self.root) / above)

    @contextlib.contextmanager
    def _temporary(self, path: str, data: bytes) -> Iterator[Path]:
        """A file that holds `data`, out of readers' sight, to become `path`; gone afterwards."""
        folder = Path(self.full(path)).parent
        folder.mkdir(parents=True, exist_ok=True)
        hidden = Path(self.full(TEMPORARY))
        hidden.mkdir(exist_ok=True)
        with temporary_file(hidden, data) as temporary:
            yield temporary
            sync_folder(folder)


def open_files(uri: str | Path, *, storage_options: Mapping[str, object] | None = None) -> Files:
    """The files under a path or a URL.

    `storage_options` go to the fsspec file system, beside those of BACKSTAY_STORAGE_OPTIONS.
    """
    try:
        # A cached listing would hide the version that someone else has just published.
        options = {"use_listings_cache": False, **options_of(str(uri)), **(storage_options or {})}
        fs, root = url_to_fs(str(uri), **options)
    except (ImportError, ValueError, TypeError) as error:
        raise RegistryError(not_opened(str(uri), error)) from error
    for protocol, kind in (("file", LocalFiles), ("memory", MemoryFiles)):
        if protocol in _protocols(fs):
            return kind(fs, root)
    return Files(fs, root)


def _protocols(fs: AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
