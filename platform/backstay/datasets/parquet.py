"""Interactions and attributes out of Parquet tables."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from backstay.datasets.reading import ItemRow
from backstay.datasets.rows import Cell, Floats, RowFormat
from backstay.datasets.skipped_rows import BrokenRowError, SkippedRows
from backstay.errors import InputError

_BATCH = 1 << 16


def id_types(path: Path, wanted: Sequence[str]) -> dict[str, pa.DataType]:
    """The types that the ids of a table keep, under the names of the interaction schema."""
    schema = _open(path, wanted).schema_arrow
    return {
        ours: _id_type(path, schema.field(name))
        for ours, name in zip(("user_id", "item_id"), wanted, strict=False)
    }


def read_interactions(
    path: Path, wanted: Sequence[str], row_format: RowFormat, skipped: SkippedRows
) -> Iterator[pa.RecordBatch]:
    """The interactions of a table; `wanted` names its user, item, rating and time columns."""
    file = _open(path, wanted)
    if _is_moment(file.schema_arrow.field(wanted[3]).type):
        row_format = replace(row_format, unit="s")  # as `_numbers` makes them
    row = 1
    for batch in _batches(file, path, wanted):
        user, item, rating, time = (batch.column(name) for name in wanted)
        users, items = (
            column.cast(type_)
            for column, type_ in zip((user, item), row_format.schema.types, strict=False)
        )
        ratings, times = _numbers(path, wanted[2], rating), _numbers(path, wanted[3], time)
        try:
            row_format.check_scale(float(np.nanmax(ratings, initial=0.0)))
        except InputError as error:
            raise InputError(f"{path}, rows from {row} on: {error}") from None
        good = np.ones(len(ratings), bool)
        for reason, bad in row_format.faults(users, items, ratings, times):
            fresh = good & bad
            if fresh.any():
                place = f"row {row + int(fresh.argmax())}"
                skipped.add(path, place, reason, rows=int(fresh.sum()))
            good &= ~bad
        skipped.advance(path, rows=int(good.sum()), size=batch.nbytes)
        kept = pa.array(good)
        yield row_format.batch(users.filter(kept), items.filter(kept), ratings[good], times[good])
        row += batch.num_rows


def read_items(
    path: Path,
    wanted: Sequence[str],
    describe: Callable[[Cell, Sequence[Cell]], ItemRow],
    skipped: SkippedRows,
) -> Iterator[ItemRow]:
    """The items of a table; `wanted` names its id column and those of the attributes."""
    file = _open(path, wanted)
    type_ = _id_type(path, file.schema_arrow.field(wanted[0]))
    row = 1
    for batch in _batches(file, path, wanted):
        ids, *columns = (batch.column(name) for name in wanted)
        values = [column.to_pylist() for column in (ids.cast(type_), *columns)]
        for n, (item, *cells) in enumerate(zip(*values, strict=True)):
            try:
                yield describe(item, cells)
            except BrokenRowError as error:
                skipped.add(path, f"row {row + n}", f"metadata: {error}")
        row += batch.num_rows


def _open(path: Path, wanted: Sequence[str]) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet file ({error}); write it again.") from error
    names = file.schema_arrow.names
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(
            f"{path}: expected the columns {', '.join(wanted)}; found {', '.join(names)}. "
            "Name the columns with --user, --item, --rating, --time and --attribute."
        )
    return file


def _batches(file: pq.ParquetFile, path: Path, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(_BATCH, columns=list(dict.fromkeys(wanted)))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); write it again.") from error


def _id_type(path: Path, field: pa.Field) -> pa.DataType:
    type_ = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_integer(type_) and type_ != pa.uint64():
        return pa.int64()
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return pa.string()
    raise InputError(
        f"{path}: expected ids that are strings or integers in the column {field.name}, "
        f"found {field.type}. Convert the column."
    )


def _is_moment(type_: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(type_) or pa.types.is_date(type_))


def _numbers(path: Path, name: str, column: pa.Array) -> Floats:
    """A column as float64, nulls as NaN; times and dates as seconds since the epoch."""
    if _is_moment(column.type):
        micros = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False)
        seconds: Floats = _floats(micros.cast(pa.int64())) / 1e6
        return seconds
    types = pa.types
    if (
        types.is_integer(column.type)
        or types.is_floating(column.type)
        or types.is_decimal(column.type)
    ):
        return _floats(column)
    raise InputError(
        f"{path}: expected numbers (or, for times, timestamps) in the column {name}, "
        f"found {column.type}. Convert the column."
    )


def _floats(column: pa.Array) -> Floats:
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values
