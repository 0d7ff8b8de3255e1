"""Ids of a table's rows: their types, and the check for duplicates."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.errors import InputError

IdType = Literal["string", "int64"]

ID_TYPES: dict[IdType, pa.DataType] = {"string": pa.string(), "int64": pa.int64()}
"""The Arrow type of each type of id."""

Keys = npt.NDArray[np.int64 | np.uint64]
"""(rows,) 64 bits a row, equal for equal ids."""


class IdKeys:
    """One 64-bit key a row: the id itself, or a hash of a string. Holds 8 bytes a row, no ids."""

    def __init__(self) -> None:
        self.rows = 0
        self._keys: list[Keys] = []

    def add(self, ids: pa.Array) -> None:
        """Take in the ids (n,) of the next rows."""
        self._keys.append(id_keys(ids).copy())
        self.rows += len(ids)

    def whole(self) -> Keys:
        """The keys of all rows (rows,)."""
        return np.concatenate(self._keys) if self._keys else np.zeros(0, np.int64)


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
    _, offsets, data = ids.buffers()
    ends = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    at, left = ends[:-1] - ends[0], np.diff(ends)
    text = np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]
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


def _mixed(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Every bit of a key (n,) spread over all 64, without a loss (MurmurHash3's finalizer)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        keys = (keys ^ (keys >> np.uint64(33))) * np.uint64(factor)
    return keys ^ (keys >> np.uint64(33))


def key_shares(keys: Keys, shares: int) -> npt.NDArray[np.uint64]:
    """Which of `shares` about equal shares each key (n,) belongs to."""
    return _mixed(keys.view(np.uint64)) % np.uint64(shares)


def refuse_duplicates(keys: Keys, batches: Iterable[pa.Array], *, table: str) -> None:
    """InputError where an id stands in two rows.

    Args:
        keys: (rows,) 64-bit integers, equal for equal ids.
        batches: The ids of all rows in their order; read only where two rows share a key.
        table: What the message calls the table.
    """
    order = np.argsort(keys, kind="stable")
    twins = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    suspects = np.unique(np.concatenate([order[twins], order[twins + 1]]))  # or keys that collide
    if not len(suspects):
        return
    first_row: dict[object, int] = {}
    done = 0
    for ids in batches:
        here = suspects[(suspects >= done) & (suspects < done + len(ids))]
        for row in here.tolist():
            id_ = ids[row - done].as_py()
            if id_ in first_row:
                raise InputError(
                    f"{table} has id {id_!r} twice, in rows {first_row[id_]} and {row}. "
                    "Ids are unique: keep one of them."
                )
            first_row[id_] = row
        done += len(ids)
