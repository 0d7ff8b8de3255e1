"""Ids that stand once in a table, of any length: 16 bytes a row, not the ids."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.errors import InputError


class IdKeys:
    """One 64-bit key per row, equal for equal ids: the id itself, or a hash of a string."""

    def __init__(self) -> None:
        self.rows = 0
        self._keys: list[npt.NDArray[Any]] = []

    def add(self, ids: pa.Array) -> None:
        """Take in the ids (n,) of the next rows."""
        values = ids.to_numpy(zero_copy_only=False)
        if pa.types.is_string(ids.type):
            from pandas.util import hash_array  # noqa: PLC0415 - half a second to import

            values = hash_array(values, categorize=False)
        self._keys.append(values.copy())
        self.rows += len(ids)

    def whole(self) -> npt.NDArray[Any]:
        """The keys of all rows (rows,)."""
        return np.concatenate(self._keys) if self._keys else np.zeros(0, np.int64)


def refuse_duplicates(keys: npt.NDArray[Any], batches: Iterable[pa.Array], *, table: str) -> None:
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
    first_row: dict[Any, int] = {}
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
