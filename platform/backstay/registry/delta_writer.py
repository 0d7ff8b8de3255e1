"""Writing a table as its differences from a base, where few rows differ.

The batches are spooled to a file on local disk, so that rows can be compared bit for bit in
whatever order they come. Memory holds the ids of both tables and one batch of vectors.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Unpack

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backstay.registry.content import ContentHash
from backstay.registry.fingerprint import fingerprint
from backstay.registry.overlay import ROW
from backstay.registry.stored import Base
from backstay.registry.table_commit import (
    COMMIT,
    FORMAT,
    TableCommit,
    TableDelta,
    write_commit,
)
from backstay.registry.table_layout import Float32, check_batch, record_batch, table_schema
from backstay.registry.table_writer import (
    TableFiles,
    TableOf,
    group_sizes,
    write_files,
    write_parts,
)
from backstay.registry.tables import Batch, EmbeddingTable
from backstay.storage.files import Files
from backstay.storage.ids import ID_TYPES, IdKeys, refuse_duplicates

MOST_DIFFERENT = 0.2
"""Changed, deleted and new rows, as a share of the base's rows, up to which a delta is stored."""

GROUP_BYTES = 4 << 20
"""Vectors in a row group. Smaller than in a table, because a reader may need a few rows."""

_BATCH_ROWS = 1 << 14

Int64 = npt.NDArray[np.int64]


def write_delta(
    files: Files,
    folder: str,
    batches: Iterable[Batch],
    *,
    base: Base,
    part_rows: int | None = None,
    build: str,
    **of: Unpack[TableOf],
) -> TableFiles:
    """`write_parts`, as a delta of `base` where few rows differ, else as a whole table.

    Rows of a delta are read in the order of the base, with new ones at the end.
    """
    batches = iter(batches)
    first = next(batches, None)
    rows = batches if first is None else chain([first], batches)
    if first is None or not _alike(first, base.table):
        return write_parts(files, folder, rows, part_rows=part_rows, build=build, **of)
    with tempfile.TemporaryDirectory() as spool:
        spooled = _spool(rows, base.table, Path(spool), entity=of["entity"])
        differences = _compare(base.table, spooled)
        if differences is None:
            again = spooled.batches()
            return write_parts(files, folder, again, part_rows=part_rows, build=build, **of)
        try:
            return _write(
                files, folder, base, spooled, differences, part_rows=part_rows, build=build, of=of
            )
        except BaseException:
            files.remove(folder)
            raise


@dataclass(frozen=True, kw_only=True, eq=False)
class _Spooled:
    """The rows of the new table, in the order they came."""

    ids: pa.Array  # (n,) int64 or large_string
    values: Float32  # (n, D), on disk

    def take(self, rows: Int64) -> Batch:
        """Some rows, in the given order."""
        first, last = (rows[0], rows[-1]) if len(rows) else (0, -1)
        if last - first + 1 == len(rows) and (np.diff(rows) == 1).all():
            return _ids(self.ids[first : last + 1]), self.values[first : last + 1]
        return _ids(self.ids.take(pa.array(rows))), self.values[rows]

    def batches(self) -> Iterator[Batch]:
        """All rows; one empty batch without rows."""
        for start in range(0, max(1, len(self.ids)), _BATCH_ROWS):
            rows = slice(start, start + _BATCH_ROWS)
            yield _ids(self.ids[rows]), self.values[rows]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Differences:
    changed: Int64  # rows of the base, ascending
    places: Int64  # for each, the row of the new table
    deleted: Int64  # rows of the base, ascending
    new: Int64  # rows of the new table, ascending
    content: ContentHash  # of all rows in reading order


def _alike(batch: Batch, table: EmbeddingTable) -> bool:
    ids, values = batch
    expected = (ID_TYPES[table.id_type], 2, (table.dim,))
    return (ids.type, values.ndim, values.shape[1:]) == expected


def _spool(
    batches: Iterator[Batch], like: EmbeddingTable, folder: Path, *, entity: str
) -> _Spooled:
    """Write the vectors to a file; InputError where a row breaks the layout or repeats an id."""
    path = folder / "vectors"
    ids: list[pa.Array] = []
    keys = IdKeys()
    with path.open("wb") as file:
        for batch_ids, values in batches:
            check_batch(batch_ids, values, schema=like.schema, first_row=keys.rows)
            keys.add(batch_ids)
            ids.append(_wide(batch_ids))
            file.write(np.ascontiguousarray(values).data)
    refuse_duplicates(keys.whole(), ids, table=f"the table of {entity}")
    shape = (keys.rows, like.dim)
    return _Spooled(
        ids=pa.concat_arrays(ids),
        values=np.memmap(path, np.float32, "r", shape=shape)
        if keys.rows
        else np.empty(shape, "f4"),
    )


def _compare(base: EmbeddingTable, new: _Spooled) -> _Differences | None:
    """The rows that differ, bit for bit; None where they are too many for a delta."""
    old_ids = pa.concat_arrays([*map(_wide, base.id_batches()), new.ids[:0]])
    if old_ids.equals(new.ids):
        place: Int64 = np.arange(len(old_ids))
    else:
        found = pc.index_in(old_ids, value_set=new.ids).fill_null(-1)
        place = found.to_numpy().astype(np.int64)
    is_new = np.ones(len(new.ids), bool)
    is_new[place[place >= 0]] = False
    added, deleted = np.flatnonzero(is_new), np.flatnonzero(place < 0)
    left = MOST_DIFFERENT * base.rows - len(added) - len(deleted)
    changed: list[Int64] = []
    content = ContentHash()
    row = 0
    for ids, values in base.batches(_BATCH_ROWS) if left >= 0 else ():
        rows = row + np.flatnonzero(place[row : row + len(ids)] >= 0)
        batch = new.take(place[rows])
        same = values[rows - row].view(np.uint32) == batch[1].view(np.uint32)
        changed.append(rows[~same.all(axis=1)])
        left -= len(changed[-1])
        if left < 0:
            break
        content.add(batch)
        row += len(ids)
    if left < 0:
        return None
    for start in range(0, len(added), _BATCH_ROWS):
        content.add(new.take(added[start : start + _BATCH_ROWS]))
    rows = np.concatenate([*changed, np.zeros(0, np.int64)])
    return _Differences(
        changed=rows, places=place[rows], deleted=deleted, new=added, content=content
    )


def _write(
    files: Files,
    folder: str,
    base: Base,
    new: _Spooled,
    found: _Differences,
    *,
    part_rows: int | None,
    build: str,
    of: TableOf,
) -> TableFiles:
    dim, id_type = base.table.dim, base.table.id_type
    label = fingerprint(dim=dim, build=build, **of)
    schema = table_schema(dim, id_type, fingerprint=label, **of)
    group_rows, each = group_sizes(dim, part_rows, group_bytes=GROUP_BYTES)

    def groups(places: Int64) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(places), group_rows):
            yield record_batch(*new.take(places[start : start + group_rows]), schema=schema)

    numbered = schema.insert(0, ROW)
    numbers = (
        pa.array(found.changed[at : at + group_rows])
        for at in range(0, len(found.changed), group_rows)
    )
    changes = (
        pa.record_batch([rows, *group.columns], schema=numbered)
        for rows, group in zip(numbers, groups(found.places), strict=True)
    )
    deleted = pa.schema([ROW], metadata=schema.metadata)
    gone = [found.deleted] if len(found.deleted) else []
    gone_rows = (pa.record_batch([pa.array(rows)], schema=deleted) for rows in gone)
    parts = write_files(files, folder, groups(found.new), schema=schema, each=each)
    changed = write_files(files, folder, changes, schema=numbered, each=each, stem="changed")
    removed = write_files(files, folder, gone_rows, schema=deleted, each=1, stem="deleted")
    rows = base.table.rows - len(found.deleted) + len(found.new)
    commit = TableCommit(
        format=FORMAT,
        dim=dim,
        rows=rows,
        id_type=id_type,
        dtype="float32",
        fingerprint=label,
        parts=parts,
        delta=TableDelta(
            base=base.table.version,
            base_manifest_sha256=base.manifest_sha256,
            base_rows=base.table.rows,
            changed_rows=len(found.changed),
            deleted_rows=len(found.deleted),
            changed=changed,
            deleted=next(iter(removed), None),
            content=found.content.hexdigest(),
        ),
        **of,
    )
    digest = write_commit(files, folder, commit, exclusive=False)
    written = {part.name: part.digest for part in commit.stored}
    return TableFiles(rows=rows, dim=dim, id_type=id_type, files={**written, COMMIT: digest})


def _wide(ids: pa.Array) -> pa.Array:
    """Ids of any total length in one array."""
    return ids.cast(pa.large_string()) if pa.types.is_string(ids.type) else ids


def _ids(ids: pa.Array) -> pa.Array:
    """The inverse of `_wide`."""
    return ids.cast(pa.string()) if pa.types.is_large_string(ids.type) else ids
