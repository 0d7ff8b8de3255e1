"""Converting one part: from some row groups of the input to one file of the output."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from backstay.compat.maps import BackwardMap, Vectors
from backstay.errors import BackstayError
from backstay.registry.table_writer import PARQUET_OPTIONS
from backstay.registry.tables import EmbeddingTable, check_batch, record_batch
from backstay.storage.folders import NewFolder
from backstay.storage.parquet_parts import open_part

_READ_AHEAD = 8 << 20  # bytes read at once, so that row groups of any size can be streamed


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """One conversion. Can be pickled, so that a task converts a part."""

    table: EmbeddingTable
    chain: BackwardMap
    schema: pa.Schema  # of the output, extra columns included, in the input's order
    output: NewFolder
    batch_rows: int  # converted at once, and in a row group of the output


@dataclass(frozen=True)
class RowGroup:
    """A row group of the input."""

    path: str
    index: int  # in its file
    rows: int
    first_row: int  # in the table


@dataclass(frozen=True, kw_only=True)
class ConvertedPart:
    """The outcome of a part. Plain values: it travels as a row of a Ray dataset."""

    name: str  # of its file
    rows: int = 0
    size: int = 0  # bytes
    faulty: int = 0  # rows that can't be converted
    fault: str = ""  # the first of them, described
    error: str = ""  # why the part could not be converted at all


def convert_part(
    conversion: Conversion, groups: Sequence[RowGroup], *, number: int
) -> ConvertedPart:
    """Stream a part from the input to its file of the output."""
    name = f"part-{number:05d}.parquet"
    faults = _Faults()
    try:
        with (
            conversion.output.part(name) as sink,
            pq.ParquetWriter(sink, conversion.schema, **PARQUET_OPTIONS) as writer,
        ):
            waiting: list[pa.RecordBatch] = []
            for batch in _converted(conversion, groups, faults):
                waiting.append(batch)
                if sum(map(len, waiting)) >= conversion.batch_rows:
                    _write_group(writer, waiting)
                    waiting = []
            if waiting:
                _write_group(writer, waiting)
    except (BackstayError, OSError, pa.ArrowException) as error:
        return ConvertedPart(name=name, error=f"part {number} of the conversion failed: {error}")
    return ConvertedPart(
        name=name,
        rows=sum(group.rows for group in groups),
        size=sink.digest.size,
        faulty=faults.count,
        fault=faults.first,
    )


def _write_group(writer: pq.ParquetWriter, batches: list[pa.RecordBatch]) -> None:
    table = pa.Table.from_batches(batches)
    writer.write_table(table, row_group_size=len(table))


class _Faults:
    """Counts rows that can't be converted, and describes the first."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def add(self, rows: npt.NDArray[np.int64], batch: pa.RecordBatch, *, first_row: int) -> None:
        if not self.count:
            row = int(rows[0])
            id_ = batch.column("id")[row].as_py()
            vector = batch.column("embedding")[row].as_py()
            what = "no id" if id_ is None else f"id {id_!r}"
            how = (
                "no vector" if vector is None else "a vector that is null, NaN or infinite in part"
            )
            self.first = f"row {first_row + row} with {what}" + (
                "" if id_ is None else f" and {how}"
            )
        self.count += len(rows)


def _converted(
    conversion: Conversion, groups: Sequence[RowGroup], faults: _Faults
) -> Iterator[pa.RecordBatch]:
    """The batches of some row groups in the target version; after a fault it only counts."""
    table = conversion.table
    for group in groups:
        first_row = group.first_row
        with open_part(table.files, group.path, read_ahead=_READ_AHEAD) as file:
            # A task has one CPU; Arrow's threads would use more.
            for batch in file.iter_batches(
                conversion.batch_rows, row_groups=[group.index], use_threads=False
            ):
                vectors = _values(batch.column("embedding"))
                faulty = _faulty(batch, vectors)
                if len(faulty):
                    faults.add(faulty, batch, first_row=first_row)
                if not faults.count:
                    yield _convert_batch(conversion, batch, vectors, first_row=first_row)
                first_row += len(batch)


def _values(column: pa.FixedSizeListArray) -> npt.NDArray[np.float32]:
    """A column of vectors as (n, D) float32: a view unless it holds nulls, which become NaN."""
    dim = column.type.list_size
    # Not flatten(), which leaves out the vectors that are null.
    flat = column.values.slice(column.offset * dim, len(column) * dim)
    values = flat.to_numpy(zero_copy_only=not flat.null_count)
    return values.reshape(-1, dim)  # type: ignore[no-any-return]


def _faulty(batch: pa.RecordBatch, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The rows that have no id, no vector, or a vector that isn't finite."""
    ids, column = batch.column("id"), batch.column("embedding")
    finite = np.isfinite(vectors)
    if not ids.null_count and not column.null_count and finite.all():
        return np.empty(0, np.int64)
    nulls = pc.or_(pc.is_null(ids), pc.is_null(column)).to_numpy(zero_copy_only=False)
    return np.flatnonzero(nulls | ~finite.all(axis=1))


def _convert_batch(
    conversion: Conversion,
    batch: pa.RecordBatch,
    vectors: npt.NDArray[np.float32],
    *,
    first_row: int,
) -> pa.RecordBatch:
    chain = conversion.chain
    with np.errstate(over="ignore", invalid="ignore"):  # check_batch refuses what overflows
        converted = chain.convert(Vectors(chain.space, chain.source, vectors))
    own_fields = [conversion.schema.field("id"), conversion.schema.field("embedding")]
    ids, schema = batch.column("id").cast(own_fields[0].type), pa.schema(own_fields)
    check_batch(ids, converted.values, schema=schema, first_row=first_row)
    own = record_batch(ids, converted.values, schema=schema)
    columns = [
        (own if name in own.schema.names else batch).column(name)
        for name in conversion.schema.names
    ]
    return pa.record_batch(columns, schema=conversion.schema)
