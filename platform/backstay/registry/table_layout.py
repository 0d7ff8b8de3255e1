"""The layout of a table's part: its columns, and its labels in the schema's metadata."""

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from backstay.errors import InputError
from backstay.storage.ids import ID_TYPES, IdType

SPACE, ENTITY, VERSION = b"backstay.space", b"backstay.entity", b"backstay.version"
FINGERPRINT = b"backstay.fingerprint"


def table_schema(
    dim: int,
    id_type: IdType,
    *,
    space: str,
    entity: str,
    version: int,
    fingerprint: str | None = None,
) -> pa.Schema:
    """The Arrow schema of a table's parts."""
    label = {} if fingerprint is None else {FINGERPRINT: fingerprint}
    element = pa.field("element", pa.float32(), nullable=False)
    return pa.schema(
        [
            pa.field("id", ID_TYPES[id_type], nullable=False),
            pa.field("embedding", pa.list_(element, dim), nullable=False),
        ],
        metadata={SPACE: space, ENTITY: entity, VERSION: str(version), **label},
    )


def check_layout(schema: pa.Schema, path: str, *, extra_columns: bool) -> tuple[IdType, int]:
    """The id type and dimension of a table's schema; InputError where it isn't one."""
    own = [name for name in schema.names if name in {"embedding", "id"} or not extra_columns]
    if sorted(own) != ["embedding", "id"]:
        raise InputError(
            f"{path} must have exactly the columns id and embedding; found {schema.names}. "
            "Rename or drop columns first."
        )
    ids, vectors = schema.field("id").type, schema.field("embedding").type
    if pa.types.is_dictionary(ids):
        ids = ids.value_type
    if not pa.types.is_fixed_size_list(vectors) or vectors.value_type != pa.float32():
        raise InputError(
            f"{path} must hold embedding as a fixed-size list of float32; found {vectors}. "
            "Cast it: table['embedding'].cast(pyarrow.list_(pyarrow.float32(), D))."
        )
    if pa.types.is_integer(ids):
        return "int64", vectors.list_size
    if pa.types.is_string(ids) or pa.types.is_large_string(ids) or pa.types.is_string_view(ids):
        return "string", vectors.list_size
    raise InputError(f"{path} must hold id as string or integer; found {ids}.")


def labels_of(file: ParquetFile, path: str) -> dict[bytes, str]:
    """Backstay's metadata of a part; InputError where it is no UTF-8."""
    metadata = file.schema_arrow.metadata or {}
    try:
        return {
            key: metadata[key].decode()
            for key in (SPACE, ENTITY, VERSION, FINGERPRINT)
            if key in metadata
        }
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} has metadata that is not UTF-8 ({error.object!r:.60}). Write the table anew."
        ) from error
