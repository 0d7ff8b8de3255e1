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
    values: Keys = ids.to_numpy(zero_copy_only=False)
    if pa.types.is_string(ids.type):
        from pandas.util import hash_array  # noqa: PLC0415 - half a second to import

        values = hash_array(values, categorize=False)
    return values


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
