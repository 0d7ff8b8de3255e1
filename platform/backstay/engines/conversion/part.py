"""Converting one part: from some rows of the input to one file for each target version."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.compat.maps import BackwardMap
from backstay.engines.conversion.ids import unusable
from backstay.engines.conversion.input import ConvertInput, Unreadable
from backstay.engines.conversion.output import REJECTED, ConvertOutput, PartRecord
from backstay.engines.conversion.plan import Part, Sizes
from backstay.engines.conversion.rows import RowReader, Rows
from backstay.engines.conversion.vectors import (
    Mask,
    Vectors,
    all_finite,
    is_null,
    not_finite,
    numbers,
    wrong_shape,
)
from backstay.engines.conversion.writer import PartWriter, part_writer
from backstay.registry.table_layout import record_batch

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One version to convert to."""

    chain: BackwardMap
    schema: pa.Schema  # of its table, other columns included, in the input's order


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """One conversion. Can be pickled, so that a task converts a part."""

    table: ConvertInput
    targets: tuple[Target, ...]
    size: Sizes
    quarantine: bool  # set bad rows aside, instead of refusing them
    repeated: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # rows, and the first of each

    @property
    def dims(self) -> tuple[int, ...]:
        """The dimensions of the source and of each target."""
        return self.table.dim, *(len(target.chain.matrix) for target in self.targets)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A batch after the maps: its good rows, and its bad ones with their reasons."""

    rows: pa.RecordBatch  # the good rows as they came
    ids: pa.Array
    vectors: Vectors  # (n, D) as they came, of their own float type
    results: tuple[Vectors, ...]  # (n, D_t) for each target
    bad: npt.NDArray[np.int64]  # numbers of the bad rows in the table
    bad_rows: pa.RecordBatch
    reasons: list[str]


def convert_run(
    conversion: Conversion,
    output: ConvertOutput,
    run: Sequence[tuple[int, Part]],
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[PartRecord]:
    """Convert numbered parts one after another; stops early when `stopped` says so."""
    with RowReader(conversion.table, batch_rows=conversion.size.batch_rows) as reader:
        for number, part in run:
            if stopped():
                return
            batches = (found for piece in part for found in reader.read(piece))
            yield _convert_part(conversion, output, batches, number=number)


def _convert_part(
    conversion: Conversion,
    output: ConvertOutput,
    batches: Iterator[Rows | Unreadable],
    *,
    number: int,
) -> PartRecord:
    try:
        return output.record(_write(conversion, output, batches, number=number))
    except _FaultError as error:
        record = PartRecord(number=number, read=error.read)
        fault = error.found
    for found in chain([fault], batches):  # read on, to count the faults
        record = _count(conversion, record, found)
    return record


class _FaultError(Exception):
    """A part has a bad row, and bad rows are refused."""

    def __init__(self, found: Rows | Unreadable, read: int) -> None:
        super().__init__()
        self.found = found
        self.read = read  # rows of the part before it


def _count(conversion: Conversion, record: PartRecord, found: Rows | Unreadable) -> PartRecord:
    """The record with the faults of one more batch."""
    if isinstance(found, Unreadable):
        fault = f"{found.file}, row group {found.row_group}, can't be read: {found.reason}"
        faulty, rows = found.rows, found.rows
    else:
        done = convert_rows(conversion, found)
        faulty, rows, fault = len(done.bad), len(found.batch), ""
        if faulty:
            fault = _described(conversion, done)
    return replace(
        record,
        read=record.read + rows,
        faulty=record.faulty + faulty,
        fault=record.fault or fault,
    )


def _described(conversion: Conversion, done: Converted) -> str:
    id_ = done.bad_rows.column(conversion.table.id_column)[0].as_py()
    who = "" if id_ is None else f" (id {id_!r})"
    return f"{conversion.table.where(int(done.bad[0]))}{who}: {done.reasons[0]}"


def _write(
    conversion: Conversion,
    output: ConvertOutput,
    batches: Iterator[Rows | Unreadable],
    *,
    number: int,
) -> PartRecord:
    """Write the files of a part; raises _FaultError at a bad row that is to be refused."""
    schema = _rejected_schema(conversion.table)
    read = 0
    unreadable: list[Unreadable] = []
    rejected: PartWriter | None = None
    with ExitStack() as stack:
        writers = [
            stack.enter_context(part_writer(output, folder, number, target.schema, conversion.size))
            for folder, target in zip(output.folders, conversion.targets, strict=True)
        ]
        for found in batches:
            if isinstance(found, Unreadable):
                if not conversion.quarantine:
                    raise _FaultError(found, read)
                read += found.rows
                unreadable.append(found)
                continue
            done = convert_rows(conversion, found)
            if len(done.bad) and not conversion.quarantine:
                raise _FaultError(found, read)
            read += len(found.batch)
            for writer, target, values in zip(
                writers, conversion.targets, done.results, strict=True
            ):
                writer.write(with_vectors(target, done, values))
            if len(done.bad):
                if rejected is None:
                    rejected = stack.enter_context(
                        part_writer(output, REJECTED, number, schema, conversion.size)
                    )
                rejected.write(_with_reasons(conversion.table, done, schema))
    return PartRecord(
        number=number,
        read=read,
        tables=tuple(writer.part for writer in writers),
        rejected=rejected.part if rejected else None,
        unreadable=tuple(unreadable),
    )


def convert_rows(conversion: Conversion, found: Rows) -> Converted:
    """Check and convert a batch."""
    table, batch = conversion.table, found.batch
    dim = table.dim
    column = batch.column(table.embedding_column)
    bad, reasons = _bad_rows(conversion, found)
    good = batch.filter(pa.array(~bad)) if reasons else batch
    column = good.column(table.embedding_column)
    vectors = numbers(column, dim=dim)
    with np.errstate(over="ignore", invalid="ignore"):
        source: Float32 = np.ascontiguousarray(vectors, np.float32)
        results = [_apply(target, source) for target in conversion.targets]
    if not all_finite(results):
        broken, why = not_finite(column, vectors, results, dim=dim)
        rows = np.flatnonzero(~bad)[broken]
        if len(rows):
            reasons = dict(
                sorted({**reasons, **dict(zip(rows.tolist(), why, strict=True))}.items())
            )
            bad[rows] = True
            good, vectors = good.filter(pa.array(~broken)), vectors[~broken]
            results = [values[~broken] for values in results]
    rows = np.flatnonzero(bad)
    ids = good.column(table.id_column).cast(conversion.targets[0].schema.field("id").type)
    return Converted(
        rows=good,
        ids=ids,
        vectors=vectors,
        results=tuple(results),
        bad=found.first_row + rows,
        bad_rows=batch.take(pa.array(rows)) if len(rows) else batch.slice(0, 0),
        reasons=[reasons[row] for row in rows.tolist()],
    )


def _apply(target: Target, source: Float32) -> Vectors:
    map_ = target.chain
    values = source if map_.source == map_.target else source @ map_.matrix.T
    half = target.schema.field("embedding").type.value_type == pa.float16()
    return values.astype(np.float16) if half else values


def _bad_rows(conversion: Conversion, found: Rows) -> tuple[Mask, dict[int, str]]:
    """Rows without a usable id or a vector of the right shape: (n,) mask, and their reasons."""
    table, batch = conversion.table, found.batch
    ids = batch.column(table.id_column)
    bad, why = wrong_shape(batch.column(table.embedding_column), dim=table.dim)
    reasons = dict(zip(np.flatnonzero(bad).tolist(), why, strict=True))
    rows, first = conversion.repeated
    low, high = np.searchsorted(rows, [found.first_row, found.first_row + len(batch)])
    for row, earlier in zip(rows[low:high].tolist(), first[low:high].tolist(), strict=True):
        reasons[row - found.first_row] = f"its id stands in {table.where(earlier)} already"
    unfit = unusable(ids)
    nulls = is_null(ids)
    for row in np.flatnonzero(unfit).tolist():
        reasons[row] = "no id" if nulls[row] else "an id that doesn't fit int64"
    bad = bad | unfit
    bad[rows[low:high] - found.first_row] = True
    return bad, reasons


def with_vectors(target: Target, done: Converted, values: Vectors) -> pa.RecordBatch:
    """The good rows as rows of a target's table."""
    names = target.schema.names
    own = pa.schema([target.schema.field("id"), target.schema.field("embedding")])
    made = record_batch(done.ids, values, schema=own)
    columns = [
        made.column(name) if name in own.names else done.rows.column(at)
        for at, name in enumerate(names)
    ]
    return pa.record_batch(columns, schema=target.schema)


def _rejected_schema(table: ConvertInput) -> pa.Schema:
    """The input's columns, and where a row stood and why it was set aside."""
    fields = [field.with_nullable(True) for field in table.schema]
    names = set(table.schema.names)
    for name in ("where", "reason"):
        while name in names:
            name += "_"  # noqa: PLW2901
        fields.append(pa.field(name, pa.string()))
    return pa.schema(fields)


def _with_reasons(table: ConvertInput, done: Converted, schema: pa.Schema) -> pa.RecordBatch:
    where = pa.array([table.where(row) for row in done.bad.tolist()], pa.string())
    reasons = pa.array(done.reasons, pa.string())
    return pa.record_batch([*done.bad_rows.columns, where, reasons], schema=schema)
