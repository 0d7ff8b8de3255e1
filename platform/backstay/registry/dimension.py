"""The dimension D_k of a version about to be published: one for all its tables and its map."""

from collections.abc import Sequence

from backstay.errors import InputError, MapMismatchError
from backstay.registry.manifest import Manifest
from backstay.registry.tables import EmbeddingTable


def one_dimension(
    tables: Sequence[EmbeddingTable],
    map_shape: tuple[int, ...] | None,
    *,
    dim: int | None,
    version: int,
    previous: Manifest | None,
) -> int:
    """D_k; InputError unless the tables, the map and `dim`, where given, agree on it.

    Args:
        tables: The staged tables.
        map_shape: (D_{k-1}, D_k) of the staged map, if any.
        dim: D_k as the caller expects it.
        version: k, for messages.
        previous: The manifest of version k - 1.

    Raises:
        MapMismatchError: The map does not lead to the dimension of `previous`.
    """
    dims = {f"table {table.entity}": table.dim for table in tables}
    if map_shape and previous:
        if map_shape[0] != previous.dim:
            raise MapMismatchError(
                f"the backward map of version {version} must have {previous.dim} rows, the "
                f"dimension of version {previous.version}; found shape {map_shape}."
            )
        dims["backward map"] = map_shape[1]
    if dim is not None:
        dims["dim"] = dim
    if len(set(dims.values())) != 1:
        found = ", ".join(f"{what} {value}" for what, value in dims.items()) or "none"
        raise InputError(f"version {version} must have one dimension; found {found}.")
    return next(iter(dims.values()))
