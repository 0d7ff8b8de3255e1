"""The Parquet files that are parts of one table, and their rows in order."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from backstay.errors import InputError
from backstay.storage.files import Files


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
def open_part(files: Files, name: str, *, read_ahead: int = 0) -> Iterator[pq.ParquetFile]:
    """A part, open for reading; InputError where it is no whole Parquet file.

    `read_ahead`: bytes read at once, so that a row group of any size can be streamed. With 0 a row
    group's columns are read whole.
    """
    with files.source(name) as source:
        try:
            file = pq.ParquetFile(source, buffer_size=read_ahead)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{files.full(name)} is no whole Parquet file ({error}).") from error
        with file:
            yield file


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
            for batch in file.iter_batches(rows, columns=list(columns)):
                yield files.full(part), batch
