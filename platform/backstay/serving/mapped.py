"""An embedding table on local disk, mapped into memory and searched by id; see `copies`."""

from dataclasses import dataclass
from functools import cached_property

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
        """Find ids: rows of those found, in request order, and a mask (n,).

        `ids`: (n,) of the type of `sorted_ids`, without nulls. The mask is True for ids found.
        """
        if not len(self.sorted_ids):
            return np.empty(0, np.int64), np.zeros(len(ids), bool)
        integers = self._integers
        if integers is None:
            at = pc.search_sorted(self.sorted_ids, ids).to_numpy()
            at = np.minimum(at, len(self.sorted_ids) - 1)
            found = pc.equal(self.sorted_ids.take(pa.array(at)), ids).to_numpy(zero_copy_only=False)
        else:
            asked = ids.to_numpy()
            if self._dense:  # an id is its own position
                at = np.minimum(np.maximum(asked, integers[0]), integers[-1]) - integers[0]
            else:
                at = np.minimum(integers.searchsorted(asked), len(integers) - 1)
            found = integers[at] == asked
        return self.rows[at if found.all() else at[found]], found

    def gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """A copy of these rows, (n, D)."""
        return self._array.take(rows, axis=0)

    @cached_property
    def _integers(self) -> npt.NDArray[np.int64] | None:
        """The sorted ids as an array, if they are integers."""
        return self.sorted_ids.to_numpy() if self.sorted_ids.type == pa.int64() else None

    @cached_property
    def _dense(self) -> bool:
        """Whether the ids are integers without a gap."""
        ids = self._integers
        return ids is not None and int(ids[-1]) - int(ids[0]) == len(ids) - 1

    @cached_property
    def _array(self) -> npt.NDArray[np.float32]:
        """The vectors without the class memmap, which makes each access slower."""
        return self.vectors.view(np.ndarray)
