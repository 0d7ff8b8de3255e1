"""The layout of a table's part: its columns, and its labels in the schema's metadata."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backstay.errors import InputError
from backstay.storage.ids import ID_TYPES, IdType

Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float32 | np.float16]
FloatType = Literal["float32", "float16"]

FLOATS: dict[FloatType, pa.DataType] = {"float32": pa.float32(), "float16": pa.float16()}
"""The Arrow type of a vector's numbers."""

SPACE, ENTITY, VERSION = b"backstay.space", b"backstay.entity", b"backstay.version"
FINGERPRINT = b"backstay.fingerprint"


def table_schema(
    dim: int,
    id_type: IdType,
    *,
    space: str,
    entity: str,
    version: int,
    dtype: FloatType = "float32",
    fingerprint: str | None = None,
) -> pa.Schema:
    """The Arrow schema of a table's parts."""
    label = {} if fingerprint is None else {FINGERPRINT: fingerprint}
    element = pa.field("element", FLOATS[dtype], nullable=False)
    return pa.schema(
        [
            pa.field("id", ID_TYPES[id_type], nullable=False),
            pa.field("embedding", pa.list_(element, dim), nullable=False),
        ],
        metadata={SPACE: space, ENTITY: entity, VERSION: str(version), **label},
    )


def record_batch(ids: pa.Array, values: Floats, *, schema: pa.Schema) -> pa.RecordBatch:
    """Rows of a table as an Arrow record batch that shares the memory of `values`.

    Args:
        ids: (n,) of the schema's id type.
        values: (n, D) of the schema's float type, already checked by `check_batch`.
        schema: from `table_schema`.
    """
    flat = pa.array(np.asarray(values, order="C").reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type)
    return pa.record_batch([ids, column], schema=schema)


def check_batch(ids: pa.Array, values: Floats, *, schema: pa.Schema, first_row: int) -> None:
    """Refuse a batch that can't be rows of a table.

    Args:
        ids: (n,) of the schema's id type, none of them null.
        values: (n, D) float32, finite.
        schema: from `table_schema`.
        first_row: number of the first row, for messages.

    Raises:
        InputError: names the row, and the id, of a null id or a vector that is not finite.
    """
    id_type, dim = schema.field("id").type, schema.field("embedding").type.list_size
    if ids.type != id_type:
        raise InputError(f"ids must stay {id_type} throughout a table; found {ids.type}.")
    if values.dtype != np.float32 or values.shape != (len(ids), dim):
        raise InputError(
            f"expected float32 vectors of shape {(len(ids), dim)}, one per id; "
            f"found {values.dtype} of shape {values.shape}."
        )
    if ids.null_count:
        row = int(np.flatnonzero(pc.is_null(ids).to_numpy(zero_copy_only=False))[0])
        raise InputError(f"row {first_row + row} has no id (null); give it one or leave it out.")
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise InputError(
            f"row {first_row + row}, id {ids[row].as_py()!r}: the vector isn't finite (NaN or "
            "infinity); leave the row out or check the model."
        )


def labels_of(schema: pa.Schema, path: str) -> dict[bytes, str]:
    """Backstay's metadata of a part; InputError where it is no printable UTF-8."""
    metadata: dict[bytes, bytes] = schema.metadata or {}
    found = {}
    for key in (SPACE, ENTITY, VERSION, FINGERPRINT):
        if key in metadata:
            value = metadata[key]
            found[key] = value.decode(errors="replace")
            if not found[key].isprintable() or "\N{REPLACEMENT CHARACTER}" in found[key]:
                raise InputError(
                    f"{path} has metadata that is not UTF-8 or not printable: {key.decode()} is "
                    f"{value!r:.60}. Write the table anew."
                )
    return found


def version_of(labels: Mapping[bytes, str], path: str) -> int | None:
    """The version that a part's labels name; None if they name none."""
    label = labels.get(VERSION)
    if label is not None and not (label.isascii() and label.isdecimal()):
        raise InputError(
            f"{path} is labelled version {label!r}; expected a number. Write the table anew."
        )
    return None if label is None else int(label)


def check_layout(
    schema: pa.Schema, path: str, *, extra_columns: bool
) -> tuple[IdType, int, FloatType]:
    """The id type, dimension and float type of a table's schema; InputError where it isn't one."""
    own = [name for name in schema.names if name in {"embedding", "id"} or not extra_columns]
    if sorted(own) != ["embedding", "id"]:
        raise InputError(
            f"{path} must have exactly the columns id and embedding; found {schema.names}. "
            "Rename or drop columns first."
        )
    ids, vectors = schema.field("id").type, schema.field("embedding").type
    floats = [
        name
        for name, type_ in FLOATS.items()
        if pa.types.is_fixed_size_list(vectors) and vectors.value_type == type_
    ]
    if not floats:
        raise InputError(
            f"{path} must hold embedding as a fixed-size list of float32; found {vectors}. "
            "Cast it: table['embedding'].cast(pyarrow.list_(pyarrow.float32(), D))."
        )
    id_type = id_type_of(ids)
    if id_type is None:
        raise InputError(f"{path} must hold id as string or integer; found {ids}.")
    return id_type, vectors.list_size, floats[0]


def id_type_of(type_: pa.DataType) -> IdType | None:
    """What a column of this Arrow type is as ids; None if it can't be ids."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_integer(type_):
        return "int64"
    strings = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view
    return "string" if any(is_kind(type_) for is_kind in strings) else None
