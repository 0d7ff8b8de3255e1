"""Batch conversion: a table of version k becomes a table of an older version j.

The work is cut into parts, runs of row groups of about PART_BYTES. Whoever does a part streams it
from the input through one matrix into one file of the output, so vectors never pass between
processes, and order, bytes and memory don't depend on who does it: this process, one part after
another, or the tasks of Ray Data, which are repeated when their worker dies.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from backstay.compat.maps import BackwardMap, Vectors
from backstay.errors import BackstayError, InputError
from backstay.registry.store import Registry
from backstay.registry.table_writer import GROUP_BYTES, PARQUET_OPTIONS
from backstay.registry.tables import (
    EmbeddingTable,
    check_batch,
    open_table,
    record_batch,
    table_schema,
)
from backstay.storage.folders import NewFolder, new_folder
from backstay.storage.parquet_parts import open_part

_log = logging.getLogger("backstay.convert")

PART_BYTES = 128 << 20  # of vectors in a part of the output, as in a block of Ray Data
LOCAL_BYTES = 64 << 20  # of vectors below which starting Ray takes longer than the work
_READ_AHEAD = 8 << 20  # bytes read at once, so that row groups of any size can be streamed

Engine = Literal["auto", "local", "ray"]


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """What a conversion did."""

    space: str
    entity: str
    source: int  # version of the input
    target: int  # version of the output
    dims: tuple[int, int]  # of source and target
    rows: int
    parts: int
    extra_columns: tuple[str, ...]  # beside id and embedding, passed through
    engine: Literal["local", "ray"]
    seconds: float
    rows_per_second: float
    input: str
    output: str


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What every part needs."""

    table: EmbeddingTable
    chain: BackwardMap
    schema: pa.Schema  # of the output, extra columns included, in the input's order
    output: NewFolder
    batch_rows: int  # converted at once, and in a row group of the output


@dataclass(frozen=True)
class _RowGroup:
    """A row group of the input."""

    path: str
    index: int  # in its file
    rows: int
    first_row: int  # in the table


@dataclass(frozen=True, kw_only=True)
class _Done:
    """What came of a part. Plain values: it travels as a row of a Ray dataset."""

    name: str  # of its file
    rows: int = 0
    size: int = 0  # bytes
    faulty: int = 0  # rows that can't be converted
    fault: str = ""  # what the first of them is
    error: str = ""  # why the part could not be done at all


def convert(
    *,
    registry: str,
    space: str,
    source: int,
    target: int,
    input: str,  # noqa: A002 - the word of the command line
    output: str,
    workers: int | None = None,
    engine: Engine = "auto",
) -> ConvertReport:
    """Convert a table of version `source` to the older version `target`.

    Rows keep their order; columns beside id and embedding pass through unchanged. The output is a
    table in the registry's format that says which version it is. A local output appears whole, by
    a rename; on an object store, which has none, it is whole once it holds `_SUCCESS`.

    Args:
        registry: The registry's root, which has the chain of maps: a path or URL.
        space: The space of the table.
        source: The version of the input.
        target: The version wanted.
        input: Parquet file or folder, or its URL: id, embedding as fixed-size list of float32.
        output: Folder or URL to write; must not hold anything yet.
        workers: Most parts done at once with Ray; by default as many as there are CPUs.
        engine: "ray", "local" for this process alone, or "auto": Ray from 64 MiB of vectors on.

    Raises:
        MapMismatchError: `target` is newer than `source`.
        NotFoundError: A version or a map of the chain isn't there.
        InputError: The input is no table of `source`, or has rows that can't be converted, which
            are counted; or `output` isn't empty. Nothing is written then.
    """
    began = time.perf_counter()
    chain = Registry(registry).space(space).chain(source, target)
    table = open_table(input, space=space, version=source, extra_columns=True)
    if table.dim != chain.matrix.shape[1]:
        raise InputError(
            f"{input} holds vectors of dimension {table.dim}; expected {chain.matrix.shape[1]}, "
            f"the dimension of {space} version {source}. Is it a table of another version?"
        )
    groups, schema = _survey(table)
    parts = _cut(groups, row_bytes=_row_bytes(chain))
    if engine == "auto":
        engine = "local" if table.rows * _row_bytes(chain) < LOCAL_BYTES else "ray"
    _log.info(
        "converting %d rows of %s from version %d to %d in %d parts (%s)",
        *(table.rows, space, source, target, len(parts)),
        "in this process" if engine == "local" else "over Ray Data",
    )
    with new_folder(output) as place:
        job = _Job(
            table=table,
            chain=chain,
            schema=_out_schema(table, chain, schema),
            output=place,
            batch_rows=max(1, GROUP_BYTES // _row_bytes(chain)),
        )
        results = _locally(job, parts) if engine == "local" else _over_ray(job, parts, workers)
        done = _collect(results, parts=len(parts))
        place.check_parts({part.name: part.size for part in done})
    seconds = time.perf_counter() - began
    return ConvertReport(
        space=space,
        entity=table.entity,
        source=source,
        target=target,
        dims=(table.dim, chain.matrix.shape[0]),
        rows=table.rows,
        parts=len(parts),
        extra_columns=tuple(name for name in schema.names if name not in {"id", "embedding"}),
        engine=engine,
        seconds=seconds,
        rows_per_second=table.rows / seconds,
        input=str(input),
        output=str(output),
    )


def _row_bytes(chain: BackwardMap) -> int:
    """Bytes of a row's vector, before or after, whichever is longer."""
    return 4 * int(max(chain.matrix.shape))


def _survey(table: EmbeddingTable) -> tuple[list[_RowGroup], pa.Schema]:
    """The row groups of a table in row order, and the schema that all its parts have."""
    groups: list[_RowGroup] = []
    schema: pa.Schema | None = None
    first_row = 0
    for path in table.parts:
        with open_part(table.files, path) as file:
            found = file.schema_arrow.remove_metadata()
            schema = found if schema is None else schema
            if found.names != schema.names or found.types != schema.types:
                raise InputError(
                    f"{table.files.full(path)} has the columns {_columns(found)}; the first part "
                    f"of the table has {_columns(schema)}. Make them alike or convert them apart."
                )
            for index in range(file.num_row_groups):
                rows = file.metadata.row_group(index).num_rows
                groups.append(_RowGroup(path, index, rows, first_row))
                first_row += rows
    assert schema is not None  # noqa: S101 - a table has at least one part
    return groups, schema


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _cut(groups: list[_RowGroup], *, row_bytes: int) -> list[list[_RowGroup]]:
    """Runs of consecutive row groups, each full at PART_BYTES; one that is empty for no rows."""
    parts: list[list[_RowGroup]] = [[]]
    filled = 0
    for group in groups:
        if filled >= PART_BYTES:
            parts.append([])
            filled = 0
        parts[-1].append(group)
        filled += group.rows * row_bytes
    return parts


def _out_schema(table: EmbeddingTable, chain: BackwardMap, schema: pa.Schema) -> pa.Schema:
    """The input's columns, with id and embedding as a table of the target version has them."""
    own = table_schema(
        chain.matrix.shape[0],
        table.id_type,
        space=chain.space,
        entity=table.entity,
        version=chain.target,
    )
    fields = [own.field(f.name) if f.name in own.names else f for f in schema]
    return pa.schema(fields, metadata=own.metadata)


def _locally(job: _Job, parts: list[list[_RowGroup]]) -> Iterator[_Done]:
    for number, part in enumerate(parts):
        yield _convert_part(job, part, number=number)


def _over_ray(job: _Job, parts: list[list[_RowGroup]], workers: int | None) -> Iterator[_Done]:
    import ray  # noqa: PLC0415 - small tables do without
    from ray.data import DataContext, TaskPoolStrategy  # noqa: PLC0415

    from backstay.engines.session import ray_session  # noqa: PLC0415

    DataContext.get_current().enable_progress_bars = False  # they'd be on stdout
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # says there are none
    with ray_session(cpus=workers):
        rows = ray.data.range(len(parts), override_num_blocks=len(parts)).map(
            _task,
            fn_kwargs={"job": job, "parts": parts},
            compute=TaskPoolStrategy(size=workers),
            num_cpus=1,
        )
        for row in rows.iter_rows():
            yield _Done(**row)


def _task(row: dict[str, Any], *, job: _Job, parts: list[list[_RowGroup]]) -> dict[str, Any]:
    return asdict(_convert_part(job, parts[row["id"]], number=row["id"]))


def _collect(results: Iterator[_Done], *, parts: int) -> list[_Done]:
    """All results, in order; InputError where a row could not be converted."""
    done = []
    for part in results:
        if part.error:
            raise InputError(part.error)
        done.append(part)
        _log.info("%d of %d parts, %d rows", len(done), parts, sum(p.rows for p in done))
    done.sort(key=lambda part: part.name)
    faulty = [part for part in done if part.faulty]
    if faulty:
        raise InputError(
            f"{sum(part.faulty for part in faulty)} of {sum(part.rows for part in done)} rows "
            f"can't be converted; the first is {faulty[0].fault}. Give every row an id and a "
            "finite vector, or leave it out."
        )
    return done


def _convert_part(job: _Job, groups: list[_RowGroup], *, number: int) -> _Done:
    """Stream a part from the input to its file of the output."""
    name = f"part-{number:05d}.parquet"
    faults = _Faults()
    try:
        with (
            job.output.part(name) as sink,
            pq.ParquetWriter(sink, job.schema, **PARQUET_OPTIONS) as writer,
        ):
            waiting: list[pa.RecordBatch] = []
            for batch in _converted(job, groups, faults):
                waiting.append(batch)
                if sum(map(len, waiting)) >= job.batch_rows:
                    _write_group(writer, waiting)
                    waiting = []
            if waiting:
                _write_group(writer, waiting)
    except (BackstayError, OSError, pa.ArrowException) as error:
        return _Done(name=name, error=f"part {number} of the conversion failed: {error}")
    return _Done(
        name=name,
        rows=sum(group.rows for group in groups),
        size=sink.digest.size,
        faulty=faults.count,
        fault=faults.first,
    )


def _write_group(writer: Any, batches: list[pa.RecordBatch]) -> None:
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


def _converted(job: _Job, groups: list[_RowGroup], faults: _Faults) -> Iterator[pa.RecordBatch]:
    """The batches of some row groups in the target version; after a fault it only counts."""
    table = job.table
    for group in groups:
        first_row = group.first_row
        with open_part(table.files, group.path, read_ahead=_READ_AHEAD) as file:
            # The task has one CPU; Arrow's threads would take others'.
            for batch in file.iter_batches(
                job.batch_rows, row_groups=[group.index], use_threads=False
            ):
                vectors = _values(batch.column("embedding"))
                faulty = _faulty(batch, vectors)
                if len(faulty):
                    faults.add(faulty, batch, first_row=first_row)
                if not faults.count:
                    yield _convert_batch(job, batch, vectors, first_row=first_row)
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
    job: _Job, batch: pa.RecordBatch, vectors: npt.NDArray[np.float32], *, first_row: int
) -> pa.RecordBatch:
    chain = job.chain
    with np.errstate(over="ignore", invalid="ignore"):  # check_batch refuses what overflows
        converted = chain.convert(Vectors(chain.space, chain.source, vectors))
    own_fields = [job.schema.field("id"), job.schema.field("embedding")]
    ids, schema = batch.column("id").cast(own_fields[0].type), pa.schema(own_fields)
    check_batch(ids, converted.values, schema=schema, first_row=first_row)
    own = record_batch(ids, converted.values, schema=schema)
    columns = [
        (own if name in own.schema.names else batch).column(name) for name in job.schema.names
    ]
    return pa.record_batch(columns, schema=job.schema)
