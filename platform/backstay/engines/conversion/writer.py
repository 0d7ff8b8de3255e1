"""Writing one file of a conversion's part, a row group in memory at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from backstay.engines.conversion.output import ConvertOutput
from backstay.engines.conversion.plan import GROUP_BYTES, Sizes
from backstay.registry.table_commit import TablePart
from backstay.registry.table_writer import PARQUET_OPTIONS
from backstay.storage.files import HashedFile


class PartWriter:
    """Writes one file of a part, in row groups of `group_rows` rows, or of twice GROUP_BYTES."""

    def __init__(self, name: str, sink: HashedFile, writer: pq.ParquetWriter, size: Sizes) -> None:
        self._name = name
        self._sink = sink
        self._writer = writer
        self._size = size
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Take in the next rows."""
        if not len(batch):
            return
        self._rows += len(batch)
        self._waiting.append(batch)
        rows = sum(map(len, self._waiting))
        size = sum(waiting.nbytes for waiting in self._waiting)
        if rows >= self._size.group_rows or size >= 2 * GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait as a row group."""
        if self._waiting:
            table = pa.Table.from_batches(self._waiting)
            self._writer.write_table(table, row_group_size=len(table))
            self._waiting = []

    @property
    def part(self) -> TablePart:
        """The file, once it is closed."""
        return TablePart(name=self._name, rows=self._rows, **asdict(self._sink.digest))


@contextmanager
def part_writer(
    output: ConvertOutput, folder: str, number: int, schema: pa.Schema, size: Sizes
) -> Iterator[PartWriter]:
    """Open the file of a part in a folder of the output."""
    # The least and the greatest number of all vectors serve nobody.
    measured = [field.name for field in schema if not pa.types.is_nested(field.type)]
    with (
        output.part(folder, number) as (name, sink),
        pq.ParquetWriter(sink, schema, write_statistics=measured, **PARQUET_OPTIONS) as writer,
    ):
        made = PartWriter(name, sink, writer, size)
        yield made
        made.flush()
