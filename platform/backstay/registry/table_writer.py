"""Writing embedding tables: batches of any size become parts, a row group in memory at a time."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypedDict, Unpack
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from backstay.errors import InputError
from backstay.registry.fingerprint import fingerprint
from backstay.registry.table_commit import COMMIT, TableCommit, TablePart, write_commit
from backstay.registry.table_layout import Float32, check_batch, record_batch, table_schema
from backstay.registry.tables import Batch, table_of_parts
from backstay.storage.files import FileDigest, Files, open_files
from backstay.storage.folders import new_folder, refuse_content
from backstay.storage.ids import ID_TYPES, IdType, id_keys
from backstay.storage.keys import KeyFile, refuse_duplicates


class ParquetOptions(TypedDict):
    """Arguments of `pyarrow.parquet.ParquetWriter`."""

    compression: str
    use_dictionary: bool
    write_page_checksum: bool


class TableOf(TypedDict):
    """Which table it is."""

    space: str
    entity: str
    version: int


PARQUET_OPTIONS: ParquetOptions = {
    "compression": "none",
    "use_dictionary": False,
    "write_page_checksum": True,
}
"""How a table's parts are written."""

GROUP_BYTES = 32 << 20  # of vectors in a row group, which is what a reader holds at once
PART_BYTES = 256 << 20  # of vectors in a part, about two blocks of Ray Data


@dataclass(frozen=True, kw_only=True)
class TableFiles:
    """The size and files of a table that was written."""

    rows: int
    dim: int
    id_type: IdType
    files: Mapping[str, FileDigest]  # path within the table's folder


def write_table_parts(
    folder: str | Path,
    batches: Iterable[Batch],
    *,
    space: str,
    entity: str,
    version: int,
    part_rows: int | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> TableFiles:
    """Write a stand-alone table into a new folder, holding one part's row group in memory.

    A local folder appears when it is whole; on an object store it is whole once it holds
    `_table.json`. A writer that fails removes what it wrote, and nothing else.

    Args:
        folder: A path or fsspec URL; must not hold anything yet.
        batches: Ids (n,) string or int64, and vectors (n, D) float32.
        space: The space the vectors live in.
        entity: The entity of the ids.
        version: The version whose space it is.
        part_rows: Most rows in a part; by default 256 MiB of vectors.
        storage_options: For the fsspec file system.

    Raises:
        InputError: on a duplicate or null id, a vector that isn't finite, a shape that changes.
    """
    files = open_files(folder, storage_options=storage_options)
    of: TableOf = {"space": space, "entity": entity, "version": version}
    if files.is_local:
        with new_folder(Path(files.root)) as content:
            return write_parts(open_files(content), "", batches, part_rows=part_rows, **of)
    refuse_content(files, folder)
    attempt = f"-{uuid4().hex[:12]}"  # another writer may write there at the same time
    return write_parts(files, "", batches, part_rows=part_rows, attempt=attempt, **of)


def write_parts(
    files: Files,
    folder: str,
    batches: Iterable[Batch],
    *,
    part_rows: int | None = None,
    attempt: str = "",
    build: str | None = None,
    **of: Unpack[TableOf],
) -> TableFiles:
    """`write_table_parts` into a folder of `files`; after an error nothing of it stays.

    `build`: the build that the table is part of; its parts then carry a fingerprint.
    `attempt` ends the names of the parts in a folder where others may write at the same time.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise InputError(
            f"expected at least one batch for the table of {of['entity']}, found none. "
            "For an empty table pass one batch of no rows."
        )
    id_type, dim = _id_type(first[0]), _dim(first[1])
    label = None if build is None else fingerprint(dim=dim, build=build, **of)
    schema = table_schema(dim, id_type, fingerprint=label, **of)
    group_rows, each = group_sizes(dim, part_rows, group_bytes=GROUP_BYTES)
    keys = KeyFile()
    try:
        groups = _row_groups(chain([first], batches), schema=schema, rows=group_rows, keys=keys)
        parts = write_files(files, folder, groups, schema=schema, each=each, attempt=attempt)
        commit = TableCommit(
            dim=dim,
            rows=keys.rows,
            id_type=id_type,
            dtype="float32",
            fingerprint=label,
            parts=parts,
            **of,
        )
        _refuse_duplicates(files, folder, commit, keys)
        digest = write_commit(files, folder, commit, exclusive=bool(attempt))
    except BaseException:
        mine = [name for name in files.find(folder) if attempt in name] if attempt else [""]
        for name in mine:
            files.remove(_in(folder, name).rstrip("/"))
        raise
    written = {part.name: part.digest for part in parts}
    return TableFiles(rows=keys.rows, dim=dim, id_type=id_type, files={**written, COMMIT: digest})


def group_sizes(dim: int, part_rows: int | None, *, group_bytes: int) -> tuple[int, int]:
    """Rows of a row group with vectors of at most `group_bytes`, and row groups of a part.

    `part_rows`: rows of a part; None: as many as `PART_BYTES` of vectors have.
    """
    part_rows = part_rows or max(1, PART_BYTES // (4 * dim))
    rows = min(part_rows, max(1, group_bytes // (4 * dim)))
    return rows, part_rows // rows


def write_files(
    files: Files,
    folder: str,
    groups: Iterator[pa.RecordBatch],
    *,
    schema: pa.Schema,
    each: int,
    stem: str = "part",
    attempt: str = "",
) -> tuple[TablePart, ...]:
    """Write row groups to numbered Parquet files, at most `each` of them to a file."""
    parts: list[TablePart] = []
    while (group := next(groups, None)) is not None:
        name = f"{stem}-{len(parts):05d}{attempt}.parquet"
        rows = 0
        with (
            files.writer(_in(folder, name)) as sink,
            pq.ParquetWriter(sink, schema, **PARQUET_OPTIONS) as writer,
        ):
            for batch in chain([group], islice(groups, each - 1)):
                writer.write_batch(batch, row_group_size=max(1, len(batch)))
                rows += len(batch)
        parts.append(TablePart(name=name, rows=rows, **asdict(sink.digest)))
    return tuple(parts)


def _refuse_duplicates(files: Files, folder: str, commit: TableCommit, keys: KeyFile) -> None:
    """InputError where an id stands in two rows of the parts that were written."""
    table = table_of_parts(files, folder, commit)
    refuse_duplicates(keys, table.id_batches(), table=f"the table of {commit.entity}")


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}".lstrip("/")


def _row_groups(
    batches: Iterator[Batch], *, schema: pa.Schema, rows: int, keys: KeyFile
) -> Iterator[pa.RecordBatch]:
    """Regroup batches of any size into record batches of `rows`; without rows, one empty batch."""
    buffer = np.empty((rows, schema.field("embedding").type.list_size), np.float32)
    pending: list[pa.Array] = []
    filled = 0
    for ids, values in batches:
        check_batch(ids, values, schema=schema, first_row=keys.rows)
        keys.append(id_keys(ids))
        start = 0
        while start < len(ids):
            taken = min(rows - filled, len(ids) - start)
            buffer[filled : filled + taken] = values[start : start + taken]
            pending.append(ids[start : start + taken])
            start, filled = start + taken, filled + taken
            if filled == rows:
                yield record_batch(pa.concat_arrays(pending), buffer, schema=schema)
                pending, filled = [], 0
    if filled or not keys.rows:
        last = pa.concat_arrays(pending or [pa.array([], schema.field("id").type)])
        yield record_batch(last, buffer[:filled], schema=schema)


def _id_type(ids: pa.Array) -> IdType:
    for name, type_ in ID_TYPES.items():
        if ids.type == type_:
            return name
    raise InputError(f"ids must be an Arrow array of string or int64; found {ids.type}.")


def _dim(values: Float32) -> int:
    if values.ndim != 2 or not values.shape[1]:  # noqa: PLR2004
        raise InputError(f"vectors must have shape (n, D) with D > 0; found {values.shape}.")
    return int(values.shape[1])
