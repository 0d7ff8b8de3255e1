"""Reading files whose size and hash are known: bytes that differ are refused."""

import hashlib

import pyarrow as pa

from backstay.errors import CorruptError
from backstay.storage.files import FileDigest, Files

_CHUNK = 8 << 20  # bytes


def check_bytes(data: bytes, expected: FileDigest, *, path: str) -> bytes:
    """Return `data`; CorruptError unless it has the size and hash `expected`."""
    found = FileDigest(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return data if found == expected else _refuse(expected, found, path=path)


def checked_source(files: Files, path: str, expected: FileDigest) -> pa.NativeFile:
    """Open a file for pyarrow once all its bytes are checked; CorruptError where they differ.

    An object is read into memory once. A local file is read through the system's cache twice.
    """
    if not files.is_local:
        return pa.BufferReader(check_bytes(files.read(path), expected, path=files.full(path)))
    check_file(files, path, expected)
    return files.source(path)


def check_file(files: Files, path: str, expected: FileDigest) -> None:
    """CorruptError unless a file has the size and hash `expected`; a chunk in memory at a time."""
    digest = hashlib.sha256()
    size = 0
    with files.source(path) as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    found = FileDigest(size=size, sha256=digest.hexdigest())
    if found != expected:
        _refuse(expected, found, path=files.full(path))


def difference(expected: FileDigest, found: FileDigest) -> str:
    """How two digests differ, for messages."""
    if found.size != expected.size:
        return f"should have {expected.size} bytes; found {found.size}."
    return f"should have SHA-256 {expected.sha256}; found {found.sha256}."


def _refuse(expected: FileDigest, found: FileDigest, *, path: str) -> bytes:
    raise CorruptError(
        f"{path} {difference(expected, found)} It was changed after it was published: run "
        "`backstay verify` and restore it from a copy."
    )
