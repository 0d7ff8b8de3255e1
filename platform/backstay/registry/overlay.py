"""The rows of a table that differ from those of its base, laid over the base's batches.

    changed-*.parquet   row, id, embedding: new vectors of rows of the base, `row` ascending
    deleted.parquet     row: rows of the base that are gone, ascending

Rows are numbered in the base's reading order. Memory holds 8 bytes for each deleted row and one
batch of changed ones.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.errors import CorruptError
from backstay.registry.table_layout import Float32, record_batch
from backstay.storage.files import FileDigest, Files
from backstay.storage.parquet_parts import open_part, part_batches

ROW = pa.field("row", pa.int64(), nullable=False)

_ROWS_AT_ONCE = 1 << 16  # numbers of deleted rows
_CHANGED_BYTES = 1 << 20  # vectors of changed rows read at once; they stay in the processor's cache

Int64 = npt.NDArray[np.int64]
Change = tuple[Int64, pa.Array, Float32]
"""Rows of the base (n,), their ids (n,), and their new vectors (n, D)."""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """The changed and deleted rows of a base. Can be pickled, for tasks of Ray."""

    files: Files
    changed: tuple[str, ...]  # paths in `files`, in row order
    deleted: str | None
    schema: pa.Schema  # of the table's parts, labels included
    digests: Mapping[str, FileDigest] = field(default_factory=dict)  # by path; checked at reading

    @property
    def paths(self) -> tuple[str, ...]:
        """All its files."""
        return self.changed + ((self.deleted,) if self.deleted else ())

    @cached_property
    def deleted_rows(self) -> Int64:
        """The deleted rows, ascending."""
        if self.deleted is None:
            return np.zeros(0, np.int64)
        path = self.files.full(self.deleted)
        with open_part(self.files, self.deleted, digest=self.digests.get(self.deleted)) as file:
            batches = part_batches(file, _ROWS_AT_ONCE, columns=["row"], path=path)
            return np.concatenate([batch.column(0).to_numpy() for batch in batches])

    def kept(self, first_row: int, rows: int) -> npt.NDArray[np.bool_] | None:
        """Which of `rows` rows of the base, from `first_row`, stay; None where all of them do."""
        gone = self._deleted(first_row, rows)
        if not len(gone):
            return None
        mask = np.ones(rows, bool)
        mask[gone - first_row] = False
        return mask

    def left(self, first_row: int, rows: int) -> int:
        """How many of `rows` rows of the base, from `first_row`, stay."""
        return rows - len(self._deleted(first_row, rows))

    def _deleted(self, first_row: int, rows: int) -> Int64:
        """The deleted ones of `rows` rows of the base, from `first_row`."""
        low, high = self.deleted_rows.searchsorted([first_row, first_row + rows])
        return self.deleted_rows[low:high]

    def changes(self, first_row: int) -> Generator[Change, None, None]:
        """The changed rows from `first_row` of the base on; row groups before it are not read."""
        schema = self.schema.insert(0, ROW)
        at_once = max(1, _CHANGED_BYTES // (4 * self.schema.field("embedding").type.list_size))
        for name in self.changed:
            path = self.files.full(name)
            with open_part(self.files, name, digest=self.digests.get(name)) as file:
                if not file.schema_arrow.equals(schema, check_metadata=True):
                    raise CorruptError(
                        f"{path} must hold the changed rows of its table; found other columns or "
                        "labels. Restore it from a copy."
                    )
                groups = [
                    group
                    for group in range(file.metadata.num_row_groups)
                    if file.metadata.row_group(group).column(0).statistics.max >= first_row
                ]
                columns = schema.names
                for batch in part_batches(
                    file, at_once, columns=columns, path=path, row_groups=groups
                ):
                    rows = batch.column("row").to_numpy()
                    start = int(np.searchsorted(rows, first_row))
                    values = numbers(batch.column("embedding"))
                    yield rows[start:], batch.column("id")[start:], values[start:]


class OverlayReader(AbstractContextManager["OverlayReader"]):
    """Lays an overlay over batches of its base; costs least where they are in row order."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self._stream: Generator[Change, None, None] | None = None
        self._next: Change | None = None
        self._position = 0

    def lay_over(self, ids: pa.Array, values: Float32, first_row: int) -> tuple[pa.Array, Float32]:
        """Rows of the base from `first_row` as rows of the table.

        Args:
            ids: (n,).
            values: (n, D), changed in place.
            first_row: Number of the first row in the base.

        Raises CorruptError where the base is not the one that the overlay was made for.
        """
        for rows, changed, vectors in self._changes(first_row, first_row + len(ids)):
            places = rows - first_row
            if not _taken(ids, places).equals(changed):
                raise CorruptError(
                    f"{self.overlay.files.full(self.overlay.changed[0])} changes rows of other ids "
                    "than its base has in these rows. Run `backstay verify`."
                )
            values[places] = vectors
        kept = self.overlay.kept(first_row, len(ids))
        return (ids, values) if kept is None else _filtered(ids, values, kept)

    def _changes(self, start: int, stop: int) -> Iterator[Change]:
        if self._stream is None or start < self._position:
            self.close()
            self._stream = self.overlay.changes(start)
        self._position = stop
        while True:
            change = self._next or next(self._stream, None)
            self._next = None
            if change is None:
                return
            low, high = change[0].searchsorted([start, stop])
            if low < high:
                yield tuple(column[low:high] for column in change)  # type: ignore[misc]
            if high < len(change[0]):
                self._next = tuple(column[high:] for column in change)  # type: ignore[assignment]
                return

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file that is open."""
        if self._stream is not None:
            self._stream.close()
        self._stream = self._next = None


def overlaid(
    batches: Iterable[pa.RecordBatch], overlay: Overlay, first_row: int
) -> Iterator[pa.RecordBatch]:
    """Record batches of a base, from `first_row` on, as rows of the table; no batch is empty."""
    with OverlayReader(overlay) as reader:
        for batch in batches:
            values = numbers(batch.column("embedding"))
            ids, values = reader.lay_over(batch.column("id"), values, first_row)
            first_row += len(batch)
            if len(ids):
                yield record_batch(ids, values, schema=batch.schema)


def _taken(ids: pa.Array, places: Int64) -> pa.Array:
    if ids.type == pa.int64():  # numpy's way costs a tenth
        return pa.array(ids.to_numpy()[places])
    return ids.take(pa.array(places))


def _filtered(
    ids: pa.Array, values: Float32, kept: npt.NDArray[np.bool_]
) -> tuple[pa.Array, Float32]:
    """The rows where `kept`: they move up in `values` itself, which takes no new memory."""
    gone = np.flatnonzero(~kept)
    end = int(gone[0])
    for start, stop in pairwise([*gone.tolist(), len(ids)]):
        rows = stop - start - 1
        values[end : end + rows] = values[start + 1 : stop]
        end += rows
    return ids.filter(pa.array(kept)), values[:end]


def numbers(column: pa.FixedSizeListArray) -> Float32:
    """The vectors of a column of float32, (n, D), to be changed in place.

    They share the memory that Parquet decoded them into, and that nobody else uses.
    """
    flat = column.flatten()
    values = np.frombuffer(flat.buffers()[1] or b"", np.float32, len(flat), 4 * flat.offset)
    values = values.reshape(len(column), column.type.list_size)
    return values if values.flags.writeable else values.copy()
