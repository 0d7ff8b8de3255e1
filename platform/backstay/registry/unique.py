"""Ids that stand once in a table, of any length: 16 bytes a row, not the ids."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.errors import InputError
from backstay.registry.tables import EmbeddingTable


def refuse_duplicates(table: EmbeddingTable, *, keys: "IdKeys | None" = None) -> None:
    """InputError where an id stands in two rows. Holds 16 bytes a row, not the ids."""
    if keys is None:
        keys = IdKeys()
        for ids, _ in table.batches():
            keys.add(ids)
    suspects = keys.suspects()
    if not len(suspects):
        return
    first_row: dict[Any, int] = {}
    done = 0
    for ids, _ in table.batches():
        here = suspects[(suspects >= done) & (suspects < done + len(ids))]
        for row in here.tolist():
            id_ = ids[row - done].as_py()
            if id_ in first_row:
                raise InputError(
                    f"the table of {table.entity} has id {id_!r} twice, in rows {first_row[id_]} "
                    f"and {row}. Ids are unique: keep one of them."
                )
            first_row[id_] = row
        done += len(ids)


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

    def suspects(self) -> npt.NDArray[np.int64]:
        """Rows whose key is also another row's, increasing: duplicates, or colliding hashes."""
        keys = np.concatenate(self._keys) if self._keys else np.zeros(0, np.int64)
        order = np.argsort(keys, kind="stable")
        twins = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
        return np.unique(np.concatenate([order[twins], order[twins + 1]]))
