"""Ids of a table's rows: their types, and their 64-bit keys."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

IdType = Literal["string", "int64"]

ID_TYPES: dict[IdType, pa.DataType] = {"string": pa.string(), "int64": pa.int64()}
"""The Arrow type of each type of id."""

Keys = npt.NDArray[np.int64 | np.uint64]
"""(rows,) 64 bits a row, equal for equal ids."""


def id_keys(ids: pa.Array) -> Keys:
    """64 bits for each id (n,): the id itself, or a hash of a string."""
    if pa.types.is_string(ids.type):
        return _string_keys(ids)
    values: Keys = ids.to_numpy(zero_copy_only=False)
    return values


def _string_keys(ids: pa.Array) -> Keys:
    """A 64-bit hash of each string (n,): eight bytes of all strings are mixed in at once."""
    if not len(ids):
        return np.zeros(0, np.uint64)
    ends, text = string_bytes(ids)
    at, left = ends[:-1], np.diff(ends)
    text = np.concatenate([text, np.zeros(8, np.uint8)])
    words = np.ndarray((len(text) - 7,), "<u8", text.data, strides=(1,))  # from each byte on
    keys = _mixed(left.astype(np.uint64))
    rows = np.flatnonzero(left > 0)
    while len(rows):
        beyond = 8 * np.maximum(8 - left[rows], 0).astype(np.uint64)  # bits of the next string
        keys[rows] = _mixed(keys[rows] ^ (words[at[rows]] << beyond))
        at[rows] += 8
        left[rows] -= 8
        rows = rows[left[rows] > 0]
    return keys


def string_bytes(
    ids: pa.StringArray | pa.LargeStringArray,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """The offsets (n + 1,) of n > 0 strings in their bytes, and those bytes, without a copy."""
    _, offsets, data = ids.buffers()
    type_ = np.int64 if pa.types.is_large_string(ids.type) else np.int32
    ends = np.frombuffer(offsets, type_)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    return ends - ends[0], np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]


def _mixed(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Every bit of a key (n,) spread over all 64, without a loss (MurmurHash3's finalizer)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        keys = (keys ^ (keys >> np.uint64(33))) * np.uint64(factor)
    return keys ^ (keys >> np.uint64(33))


def key_shares(keys: Keys, shares: int) -> npt.NDArray[np.uint64]:
    """Which of `shares` about equal shares each key (n,) belongs to."""
    return _mixed(keys.view(np.uint64)) % np.uint64(shares)
