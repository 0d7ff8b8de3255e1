"""The columns and the label that an input of a conversion must have."""

from collections.abc import Callable, Mapping

import pyarrow as pa

from backstay.engines.conversion.vectors import check_vector_type
from backstay.errors import InputError, UsageError
from backstay.registry.table_layout import SPACE, id_type_of, version_of
from backstay.storage.ids import IdType


def check_columns(
    schema: pa.Schema, path: str, id_column: str, embedding_column: str, dim: int
) -> IdType:
    """The type of the ids; InputError unless both columns are there and of a type we convert."""
    flags = {id_column: "--id-column", embedding_column: "--embedding-column"}
    for name, flag in flags.items():
        if schema.names.count(name) != 1:
            raise InputError(
                f"{path} must have one column {name!r}; found {column_list(schema)}. Name the "
                f"right one by {flag}."
            )
    taken = {"id", "embedding"} & (set(schema.names) - set(flags))
    if taken:
        raise InputError(
            f"{path} has a column {min(taken)!r} beside those that --id-column and "
            "--embedding-column name, and the output needs that name. Rename it first."
        )
    id_type = id_type_of(schema.field(id_column).type)
    if id_type is None:
        raise InputError(
            f"{path} must hold {id_column} as string or integer; found "
            f"{schema.field(id_column).type}."
        )
    check_vector_type(schema.field(embedding_column).type, path=path, dim=dim)
    return id_type


def check_version(
    labels: Mapping[bytes, str],
    path: str,
    *,
    assumed: int | None,
    space: str,
    version: int,
    command: Callable[[int], str | None],
) -> None:
    """InputError unless the table's label, or the user, says that it is of this version."""
    label = version_of(labels, path)
    if label not in {None, version} and labels.get(SPACE, space) == space:
        other = command(label)
        raise InputError(
            f"{path} is labelled version {label}; expected version {version}. "
            + (f"This converts it: {other}" if other else "Pick the table of that version.")
        )
    if assumed not in {None, version}:
        raise UsageError(f"assume_version must be {version}, as --from says; found {assumed}.")
    if label is None and assumed is None:
        raise InputError(
            f"{path} has no label of the version of its vectors. If they are of version {version}, "
            f"say so by --assume-version {version}."
        )


def column_list(schema: pa.Schema) -> str:
    """Names and types of all columns, for messages."""
    return ", ".join(f"{field.name!r} {field.type}" for field in schema)
