"""Columns of vectors in every form that is converted, and the rows that can't be."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backstay.errors import InputError

Mask = npt.NDArray[np.bool_]
Vectors = npt.NDArray[np.floating]

_FLOATS: dict[int, np.dtype[np.floating]] = {size: np.dtype(f"<f{size}") for size in (2, 4, 8)}
"""Bytes of a number in a binary vector -> its type."""


def check_vector_type(type_: pa.DataType, *, path: str, dim: int) -> None:
    """InputError unless a column of this Arrow type can hold vectors of `dim` numbers."""
    if pa.types.is_fixed_size_binary(type_):
        if type_.byte_width in {size * dim for size in _FLOATS}:
            return
        raise InputError(
            f"{path} holds vectors of {type_.byte_width} bytes; expected {dim} numbers of 2, 4 or "
            "8 bytes. Is it a table of another version?"
        )
    lists = pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list
    if not any(is_kind(type_) for is_kind in lists) or not pa.types.is_floating(type_.value_type):
        raise InputError(
            f"{path} must hold vectors as lists of float16, float32 or float64, or as fixed-size "
            f"binary; found {type_}. Cast the column first."
        )
    if pa.types.is_fixed_size_list(type_) and type_.list_size != dim:
        raise InputError(
            f"{path} holds vectors of dimension {type_.list_size}; expected {dim}. Is it a table "
            "of another version?"
        )


def wrong_shape(column: pa.Array, *, dim: int) -> tuple[Mask, list[str]]:
    """Rows without a vector of `dim` numbers: (n,) mask, and a reason for each such row."""
    nulls = is_null(column)
    if pa.types.is_fixed_size_binary(column.type) or pa.types.is_fixed_size_list(column.type):
        return nulls, ["no vector"] * int(nulls.sum())
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    wrong = nulls | (lengths != dim)
    return wrong, [
        "no vector" if nulls[row] else f"a vector of {lengths[row]} numbers; expected {dim}"
        for row in np.flatnonzero(wrong)
    ]


def numbers(column: pa.Array, *, dim: int) -> Vectors:
    """A column whose rows all have a vector as (n, D), of its own float type.

    A view where Arrow's memory allows it. Numbers that are null become NaN.
    """
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        data = np.frombuffer(column.buffers()[1], np.uint8)
        rows = data[column.offset * width : (column.offset + len(column)) * width]
        return np.frombuffer(rows.data, _FLOATS[width // dim]).reshape(-1, dim)
    flat = column.flatten()
    return flat.to_numpy(zero_copy_only=not flat.null_count).reshape(-1, dim)  # type: ignore[no-any-return]


def all_finite(arrays: Sequence[Vectors]) -> bool:
    """Whether all numbers are finite; False also where only their sum is not, so look closer."""
    with np.errstate(over="ignore", invalid="ignore"):
        return all(
            bool(np.isfinite(values).all() if values.dtype == np.float16 else
                 np.isfinite(values.sum()))
            for values in arrays
        )  # fmt: skip


def not_finite(
    column: pa.Array, values: Vectors, converted: Sequence[Vectors], *, dim: int
) -> tuple[Mask, list[str]]:
    """Rows whose vector isn't finite, before or after: (n,) mask, and a reason for each.

    Args:
        column: The vectors as they came.
        values: Their numbers (n, D).
        converted: What became of them, one (n, D_t) for each target.
        dim: D.
    """
    nan: Mask = np.logical_or.reduce(np.isnan(values), axis=1)
    infinite: Mask = np.logical_or.reduce(np.isinf(values), axis=1)
    null: Mask = np.zeros(len(values), np.bool_)
    if not pa.types.is_fixed_size_binary(column.type):
        null = np.logical_or.reduce(is_null(column.flatten()).reshape(-1, dim), axis=1)
    bad: Mask = np.logical_or(nan, infinite)
    for part in converted:
        bad |= np.logical_or.reduce(~np.isfinite(part), axis=1)
    reasons = [
        "a vector with a null" if null[row]
        else "a vector with a NaN" if nan[row]
        else "a vector with an infinity" if infinite[row]
        else "a vector whose conversion overflows"
        for row in np.flatnonzero(bad)
    ]  # fmt: skip
    return bad, reasons


def is_null(array: pa.Array) -> Mask:
    """Which elements are null, (n,)."""
    if not array.null_count:
        return np.zeros(len(array), np.bool_)
    mask: Mask = pc.is_null(array).to_numpy(zero_copy_only=False)
    return mask
