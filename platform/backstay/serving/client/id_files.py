"""Ids from a file or a stream."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from backstay.errors import InputError, UsageError
from backstay.registry.table_layout import id_type_of
from backstay.serving.client.ids import IdArray, as_ids
from backstay.storage.ids import ID_TYPES, IdType

SUFFIXES = (".txt", ".csv", ".parquet", ".npy")

_INTEGER = re.compile(r"-?[0-9]{1,30}")


class ReadIds(NamedTuple):
    """Ids, and whether they are text that may stand for integers."""

    ids: IdArray  # (n,)
    textual: bool


def read_ids(path: Path, *, id_column: str) -> ReadIds:
    """The ids in a file; `id_column` is for CSV and Parquet.

    Raises:
        UsageError: The file's name has none of SUFFIXES.
        InputError: The file is damaged, or holds no ids.
    """
    match path.suffix.lower():
        case ".txt":
            with path.open("rb") as file:
                return read_lines(file, name=str(path))
        case ".csv":
            return _from_csv(path, id_column)
        case ".parquet":
            return _from_parquet(path, id_column)
        case ".npy":
            return _from_npy(path)
        case other:
            raise UsageError(
                f"a file of ids must end in {', '.join(SUFFIXES)}; found {other or 'no suffix'!r} "
                f"in {path}. Rename it, or pass its lines on stdin."
            )


def read_lines(file: BinaryIO, *, name: str) -> ReadIds:
    """One id a line, in UTF-8. Empty lines are left out."""
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} must be UTF-8 text with one id a line; byte {error.start} is not. "
            "Convert it first."
        ) from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return ReadIds(as_ids([line for line in lines if line]), textual=True)


def convert_ids(read: ReadIds, id_type: IdType) -> IdArray:
    """The ids as integers or strings; UsageError if a text is no integer."""
    listed: Sequence[object] = read.ids.tolist()
    if id_type == "string":
        return as_ids([str(id_) for id_ in listed])
    if read.ids.dtype == np.int64:
        return read.ids
    for id_ in listed:
        if not _INTEGER.fullmatch(str(id_)):
            raise UsageError(
                f"ids must be integers, like the table's; found {id_!r}. Remove it, or check "
                "the entity."
            )
    return as_ids([int(str(id_)) for id_ in listed])


def _from_csv(path: Path, column: str) -> ReadIds:
    try:
        with pacsv.open_csv(path) as reader:
            _check_column(column, reader.schema.names, path)
        table = pacsv.read_csv(
            path,
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                include_columns=[column], column_types={column: pa.string()}
            ),
        )
    except pa.ArrowException as error:
        raise InputError(
            f"{path} must be CSV with a header; it can't be read ({error})."
        ) from error
    return ReadIds(as_ids(table.column(column).to_pylist()), textual=True)


def _from_parquet(path: Path, column: str) -> ReadIds:
    try:
        with pq.ParquetFile(path) as file:
            _check_column(column, file.schema_arrow.names, path)
            ids = file.read([column]).column(column)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} must be a Parquet file; it can't be read ({error}).") from error
    id_type = id_type_of(ids.type)
    if id_type is None or ids.null_count:
        found = f"{ids.null_count} nulls" if id_type else str(ids.type)
        raise InputError(
            f"column {column!r} of {path} must hold strings or integers, and no nulls; found "
            f"{found}. Name the column of ids (--id-column), or clean it."
        )
    try:
        return ReadIds(as_ids(ids.cast(ID_TYPES[id_type]).to_pylist()), textual=False)
    except pa.ArrowInvalid as error:
        raise InputError(f"integer ids in {path} must be within 64 bits: {error}.") from error


def _from_npy(path: Path) -> ReadIds:
    try:
        ids = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(
            f"{path} must be an array of integers or strings in NumPy's format; it can't be read "
            f"({error})."
        ) from error
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iuU":
        shape, dtype = getattr(ids, "shape", None), getattr(ids, "dtype", type(ids).__name__)
        raise InputError(
            f"{path} must hold one dimension of integers or strings; found {dtype} of shape "
            f"{shape}. Save the ids alone."
        )
    return ReadIds(as_ids(ids), textual=False)


def _check_column(column: str, names: Sequence[str], path: Path) -> None:
    if column not in names:
        raise InputError(
            f"{path} has no column {column!r}; it has {', '.join(map(repr, names[:10]))}. "
            "Name the column of ids (--id-column)."
        )
