"""An embedding table on local disk, mapped into memory and searched by id; see `copies`."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backstay.storage.ids import IdType

INDEX_TYPES: dict[IdType, pa.DataType] = {"int64": pa.int64(), "string": pa.large_string()}
"""The Arrow types of ids in the index: strings of any total length."""


@dataclass(frozen=True)
class MappedTable:
    """A table with look-up by id. All arrays are read-only memory maps."""

    sorted_ids: pa.Array  # (rows,) ascending, distinct, of a type in INDEX_TYPES
    rows: npt.NDArray[np.int64]  # (rows,): the row of `vectors` for each sorted id
    vectors: npt.NDArray[np.float32]  # (rows, D)

    @property
    def dim(self) -> int:
        """The dimension D of the table."""
        return int(self.vectors.shape[1])

    def find(self, ids: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Find ids by binary search: rows of those found, in request order, and a mask (n,).

        `ids`: (n,) of the type of `sorted_ids`, without nulls. The mask is True for ids found.
        """
        if not len(self.sorted_ids):
            return np.empty(0, np.int64), np.zeros(len(ids), bool)
        at = pc.search_sorted(self.sorted_ids, ids).to_numpy()
        at = np.minimum(at, len(self.sorted_ids) - 1)
        equal = pc.equal(self.sorted_ids.take(pa.array(at)), ids)
        found = equal.to_numpy(zero_copy_only=False)
        return self.rows[at[found]], found

    def gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """A copy of these rows, (n, D)."""
        return self.vectors[rows]
