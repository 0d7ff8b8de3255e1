"""The Parquet files that are parts of one table, and their rows in order."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from backstay.errors import InputError
from backstay.storage.digests import checked_source
from backstay.storage.files import FileDigest, Files


def part_names(files: Files) -> tuple[str, ...]:
    """The Parquet files under the root in row order; the root itself if it is a file.

    Files whose names begin with `_` or `.` are no parts.
    """
    if files.fs.isfile(files.root):
        return ("",)
    return tuple(
        name
        for name in files.find("")
        if name.endswith(".parquet") and not PurePosixPath(name).name.startswith(("_", "."))
    )


@contextmanager
def open_part(
    files: Files, name: str, *, read_ahead: int = 0, digest: FileDigest | None = None
) -> Iterator[pq.ParquetFile]:
    """A part, open for reading; InputError where it is no whole Parquet file.

    `digest`: the size and hash it must have; CorruptError where it has others.
    `read_ahead`: bytes read at once, so that a row group of any size can be streamed. With 0 a row
    group's columns are read whole; on an object store all row groups at once, to wait only once.
    """
    opened = files.source(name) if digest is None else checked_source(files, name, digest)
    with opened as source:
        try:
            file = pq.ParquetFile(
                source,
                buffer_size=read_ahead,
                pre_buffer=not read_ahead and not files.is_local,
                page_checksum_verification=True,
            )
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{files.full(name)} is no whole Parquet file ({error}).") from error
        with file:
            yield file


def part_batches(
    file: pq.ParquetFile,
    rows: int,
    *,
    columns: Sequence[str],
    path: str,
    row_groups: Sequence[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of an open part in batches of at most `rows`; InputError where a page is damaged.

    `row_groups`: the row groups to read; by default all.
    """
    try:
        yield from file.iter_batches(rows, row_groups=row_groups, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged ({error}). Restore it from a copy.") from error


def read_batches(
    files: Files,
    parts: Sequence[str],
    *,
    rows: int,
    columns: Sequence[str],
    read_ahead: int = 0,
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of all parts in order: each part's full path with batches of at most `rows`."""
    for part in parts:
        with open_part(files, part, read_ahead=read_ahead) as file:
            for batch in part_batches(file, rows, columns=columns, path=files.full(part)):
                yield files.full(part), batch
