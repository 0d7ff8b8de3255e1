"""Columns that a dataset keeps in the names of its folders, as in `country=de/part-0.parquet`."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow as pa

from backstay.errors import InputError

_NULL = "__HIVE_DEFAULT_PARTITION__"


def hive_fields(parts: Sequence[str]) -> tuple[pa.Field, ...]:
    """The columns in the folders of a dataset's parts: int64 if all values are integers, or string.

    InputError where parts are in folders of different columns.
    """
    found = [_values(part) for part in parts]
    names = list(found[0]) if found else []
    for part, values in zip(parts, found, strict=True):
        if list(values) != names:
            raise InputError(
                f"{part} is in folders of the columns {', '.join(values) or 'none'}; {parts[0]} in "
                f"folders of {', '.join(names) or 'none'}. Put all parts into folders of the same "
                "columns."
            )
    return tuple(
        pa.field(name, _type([values[name] for values in found if values[name] is not None]))
        for name in names
    )


def with_hive_columns(
    batch: pa.RecordBatch, path: str, fields: Sequence[pa.Field]
) -> pa.RecordBatch:
    """Rows of a part (n), with one more column for each field."""
    values = _values(path) if fields else {}
    for field in fields:
        text = values[field.name]
        value = int(text) if text is not None and field.type == pa.int64() else text
        batch = batch.append_column(field, pa.repeat(pa.scalar(value, field.type), len(batch)))
    return batch


def _values(part: str) -> dict[str, str | None]:
    """Column -> value, by the folders of a part's path."""
    pairs = [folder.split("=", 1) for folder in PurePosixPath(part).parts[:-1] if "=" in folder]
    return {unquote(name): None if value == _NULL else unquote(value) for name, value in pairs}


def _type(values: Sequence[str | None]) -> pa.DataType:
    return pa.int64() if values and all(map(_is_int64, values)) else pa.string()


def _is_int64(text: str | None) -> bool:
    """Whether a text is an int64 as usually written; with zeros ahead it is a text, as in 007."""
    try:
        number = int(text or "")
    except ValueError:
        return False
    return str(number) == text and -(2**63) <= number < 2**63
