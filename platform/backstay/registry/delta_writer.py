"""Writing a table as its differences from a base, where few rows differ.

The batches are spooled to local disk, so that rows can be compared bit for bit in whatever order
they come. Memory holds one batch, the keys of a share of the ids, and the numbers of rows that
differ.
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

from backstay.registry.content import ContentHash
from backstay.registry.fingerprint import fingerprint
from backstay.registry.overlay import ROW
from backstay.registry.spool import BATCH_ROWS, Spool, write_spool
from backstay.registry.stored import Base
from backstay.registry.table_commit import (
    COMMIT,
    FORMAT,
    TableCommit,
    TableDelta,
    write_commit,
)
from backstay.registry.table_layout import record_batch, table_schema
from backstay.registry.table_writer import (
    TableFiles,
    TableOf,
    group_sizes,
    write_files,
    write_parts,
)
from backstay.registry.tables import Batch, EmbeddingTable
from backstay.storage.files import Files
from backstay.storage.ids import ID_TYPES
from backstay.storage.keys import key_file, matches, refuse_duplicates

MOST_DIFFERENT = 0.2
"""Changed, deleted and new rows, as a share of the base's rows, up to which a delta is stored."""

GROUP_BYTES = 4 << 20
"""Vectors in a row group. Smaller than in a table, because a reader may need a few rows."""

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
    with tempfile.TemporaryDirectory() as scratch:
        spool = write_spool(rows, Path(scratch), schema=base.table.schema)
        spooled_ids = (ids for ids, _ in spool.batches())
        refuse_duplicates(spool.keys, spooled_ids, table=f"the table of {of['entity']}")
        differences = _compare(base.table, spool, Path(scratch))
        if differences is None:
            again = spool.batches()
            return write_parts(files, folder, again, part_rows=part_rows, build=build, **of)
        try:
            return _write(
                files, folder, base, spool, differences, part_rows=part_rows, build=build, of=of
            )
        except BaseException:
            files.remove(folder)
            raise


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


def _compare(base: EmbeddingTable, new: Spool, folder: Path) -> _Differences | None:
    """The rows that differ, bit for bit; None where they are too many for a delta.

    Rows are paired by the keys of their ids. None also where two different ids share a key.
    """
    old = key_file(base.id_batches())
    place = np.memmap(folder / "places", np.int64, "w+", shape=(max(1, old.rows),))
    kept = 0
    for rows, found in matches(old, new.keys):
        place[rows] = found
        kept += int((found >= 0).sum())
    left = MOST_DIFFERENT * base.rows - (old.rows - kept) - (new.keys.rows - kept)
    if left < 0:
        return None
    changed: list[Int64] = []
    deleted: list[Int64] = []
    content = ContentHash()
    row = 0
    for ids, values in base.batches(BATCH_ROWS):
        stays = place[row : row + len(ids)] >= 0
        rows = row + np.flatnonzero(stays)
        batch = new.take(place[rows])
        if not batch[0].equals(ids.filter(pa.array(stays))):
            return None
        same = values[stays].view(np.uint32) == batch[1].view(np.uint32)
        changed.append(rows[~same.all(axis=1)])
        deleted.append(row + np.flatnonzero(~stays))
        left -= len(changed[-1])
        if left < 0:
            return None
        content.add(batch)
        row += len(ids)
    added = _all([rows[found < 0] for rows, found in matches(new.keys, old)])
    for start in range(0, len(added), BATCH_ROWS):
        content.add(new.take(added[start : start + BATCH_ROWS]))
    rows = _all(changed)
    return _Differences(
        changed=rows, places=place[rows], deleted=_all(deleted), new=added, content=content
    )


def _all(rows: list[Int64]) -> Int64:
    """All row numbers, ascending."""
    return np.sort(np.concatenate([*rows, np.zeros(0, np.int64)]))


def _write(
    files: Files,
    folder: str,
    base: Base,
    new: Spool,
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
