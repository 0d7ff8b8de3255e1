"""Reading the rows of a conversion's input in batches, wherever its row groups are cut."""

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pyarrow as pa

from backstay.engines.conversion.hive import with_hive_columns
from backstay.engines.conversion.input import ConvertInput, Unreadable
from backstay.errors import InputError
from backstay.registry.overlay import overlaid
from backstay.storage.parquet_parts import open_part

_READ_AHEAD = 8 << 20  # bytes read at once, so that row groups of any size can be streamed


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of some consecutive row groups of a file."""

    path: str
    groups: tuple[int, ...]
    rows: tuple[int, ...]  # of each row group
    start: int  # counted from the first row of the first row group
    stop: int
    first_row: int  # of the table, that `start` is

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """The row groups."""
        return self.path, self.groups

    def apart(self, *, done: int) -> Iterator["Piece"]:
        """One piece for each row group, without the first `done` rows of the row groups."""
        before = 0
        for group, rows in zip(self.groups, self.rows, strict=True):
            start = max(0, max(done, self.start) - before)
            if start < rows:
                first_row = self.first_row + before + start - self.start
                yield Piece(self.path, (group,), (rows,), start, rows, first_row)
            before += rows


@dataclass(frozen=True)
class Rows:
    """A batch of the input."""

    first_row: int  # of the table
    batch: pa.RecordBatch


class RowReader(AbstractContextManager["RowReader"]):
    """Reads pieces one after another; a piece that goes on where the last one ended costs no more.

    Otherwise the rows of a row group before a piece are decoded and dropped: Parquet has no index
    of rows that Arrow uses.
    """

    def __init__(self, table: ConvertInput, *, batch_rows: int) -> None:
        self._table = table
        self._batch_rows = batch_rows
        self._key: tuple[str, tuple[int, ...]] | None = None
        self._position = 0
        self._stream: Generator[pa.RecordBatch, None, None] | None = None
        self._rest: pa.RecordBatch | None = None

    def read(self, piece: Piece) -> Iterator[Rows | Unreadable]:
        """The batches of a piece. Its rows after a corrupt page are left out, and described."""
        done = piece.start
        try:
            for rows in self._read(piece):
                done = rows.first_row + len(rows.batch) - piece.first_row + piece.start
                yield rows
        except (pa.ArrowException, OSError) as error:
            self.close()
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk or the network failed, not the file
            if len(piece.groups) == 1:
                full = self._table.files.full(piece.path)
                yield Unreadable(full, piece.groups[0], piece.stop - done, _one_line(error))
                return
            for single in piece.apart(done=done):
                yield from self.read(single)

    def _read(self, piece: Piece) -> Iterator[Rows]:
        if self._key != piece.key or self._position > piece.start:
            self.close()
            self._key, self._stream = piece.key, self._open(piece)
        while self._position < piece.stop:
            batch = self._rest if self._rest is not None else next(self._stream or iter(()))
            first, self._rest = self._position, None
            self._position += len(batch)
            if self._position <= piece.start:
                continue
            if self._position > piece.stop:
                self._rest = batch.slice(piece.stop - first)
                batch = batch.slice(0, piece.stop - first)
                self._position = piece.stop
            if first < piece.start:
                batch = batch.slice(piece.start - first)
                first = piece.start
            yield Rows(piece.first_row + first - piece.start, batch)
        if self._position == sum(piece.rows):
            self.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file that is open."""
        if self._stream is not None:
            self._stream.close()
        self._key, self._position, self._stream, self._rest = None, 0, None, None

    def _open(self, piece: Piece) -> Generator[pa.RecordBatch, None, None]:
        table = self._table
        with open_part(table.files, piece.path, read_ahead=_READ_AHEAD) as file:
            metadata = file.metadata
            stored = [
                metadata.row_group(group).num_rows
                for group in piece.groups
                if group < metadata.num_row_groups
            ]
            base_row = table.base_row(piece.path, piece.groups[0])
            found = tuple(
                rows
                if base_row is None or table.overlay is None
                else table.overlay.left(base_row + sum(stored[:at]), rows)
                for at, rows in enumerate(stored)
            )
            names = [*file.schema_arrow.names, *(field.name for field in table.hive)]
            if found != piece.rows or names != table.schema.names:
                table.refuse_changed()
            # A part has one CPU; Arrow's threads would use more.
            batches = file.iter_batches(
                self._batch_rows, row_groups=list(piece.groups), use_threads=False
            )
            if base_row is not None and table.overlay is not None:
                batches = overlaid(batches, table.overlay, base_row)
            for batch in batches:
                yield with_hive_columns(batch, piece.path, table.hive)
        raise InputError(f"{table.files.full(piece.path)} ended early: was it replaced?")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
