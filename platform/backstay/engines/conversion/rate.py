"""How fast this machine converts: a few batches of the input, in memory."""

import time
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from backstay.engines.conversion.part import Conversion, convert_rows, with_vectors
from backstay.engines.conversion.plan import Part
from backstay.engines.conversion.rows import RowReader, Rows
from backstay.registry.table_writer import PARQUET_OPTIONS

_SECONDS = 1.0  # of measuring, at most a batch more


def seconds_per_row(conversion: Conversion, parts: Sequence[Part]) -> float:
    """Seconds that one CPU takes to read, convert and encode a row; 0 without rows."""
    rows = 0
    began = time.perf_counter()
    size = conversion.size.batch_rows
    with threadpool_limits(1, "blas"), RowReader(conversion.table, batch_rows=size) as reader:
        for found in (found for piece in parts[0] for found in reader.read(piece)):
            if isinstance(found, Rows):
                done = convert_rows(conversion, found)
                for target, values in zip(conversion.targets, done.results, strict=True):
                    _encode(with_vectors(target, done, values))
                rows += len(found.batch)
            if time.perf_counter() - began > _SECONDS:
                break
    return (time.perf_counter() - began) / rows if rows else 0.0


def _encode(batch: pa.RecordBatch) -> None:
    with pq.ParquetWriter(pa.BufferOutputStream(), batch.schema, **PARQUET_OPTIONS) as writer:
        writer.write_batch(batch)
