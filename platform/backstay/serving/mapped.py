"""An embedding table on local disk, mapped into memory and searched by id; see `copies`."""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backstay.storage.ids import IdType

INDEX_TYPES: dict[IdType, pa.DataType] = {"int64": pa.int64(), "string": pa.large_string()}
"""The Arrow types of ids in the index: strings of any total length."""


_FEW = 16  # rows that are gathered without more ado
_NO_ROWS = np.empty(0, np.int64)
_FOUND, _MISSING = np.ones(1, bool), np.zeros(1, bool)
for _array in (_NO_ROWS, _FOUND, _MISSING):
    _array.setflags(write=False)  # shared by all answers


class _Strings:
    """Sorted strings as bytes, read out of Arrow's memory one at a time, without a copy of all."""

    def __init__(self, ids: pa.Array) -> None:
        _, offsets, data = ids.buffers()
        self._offsets = memoryview(offsets).cast("q")[ids.offset :]
        self._data = memoryview(data or b"")
        self._size = len(ids)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, at: int) -> bytes:
        return bytes(self._data[self._offsets[at] : self._offsets[at + 1]])


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

    def find(
        self, ids: npt.NDArray[np.int64] | pa.Array
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Find ids: rows of those found, in request order, and a mask (n,).

        `ids`: (n,) integers, or strings of the type of `sorted_ids`, without nulls. The mask is
        True for ids found.
        """
        size = len(self.sorted_ids)
        if not size:
            return np.empty(0, np.int64), np.zeros(len(ids), bool)
        if len(ids) == 1:
            one = self._find_one(ids)
            return (self.rows[one : one + 1], _FOUND) if one >= 0 else (_NO_ROWS, _MISSING)
        integers = self._integers
        if integers is None:
            at = pc.search_sorted(self.sorted_ids, ids).to_numpy()
            at = np.minimum(at, size - 1)
            found = pc.equal(self.sorted_ids.take(pa.array(at)), ids).to_numpy(zero_copy_only=False)
        elif self._dense:  # an id is its own position
            found = (ids >= self._first) & (ids < self._first + size)
            at = ids - self._first
        else:
            at = np.minimum(integers.searchsorted(ids), size - 1)
            found = integers[at] == ids
        return self.rows[at if found.all() else at[found]], found

    def _find_one(self, ids: npt.NDArray[np.int64] | pa.Array) -> int:
        """The position of a single id in `sorted_ids`; -1: it is not there."""
        size = len(self.sorted_ids)
        if self._integers is None:
            asked = ids[0].as_py().encode()
            at = bisect_left(self._strings, asked)
            return at if at < size and self._strings[at] == asked else -1
        if self._dense:
            at = int(ids[0]) - self._first
            return at if 0 <= at < size else -1
        at = int(self._integers.searchsorted(ids)[0])
        return at if at < size and self._integers[at] == ids[0] else -1

    def gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """A copy of these rows, (n, D)."""
        return gather(self._array, rows)

    @cached_property
    def _integers(self) -> npt.NDArray[np.int64] | None:
        """The sorted ids as an array, if they are integers."""
        return self.sorted_ids.to_numpy() if self.sorted_ids.type == pa.int64() else None

    @cached_property
    def _first(self) -> int:
        """The smallest id, of integers."""
        return int(self.sorted_ids[0].as_py())

    @cached_property
    def _strings(self) -> "_Strings":
        """The sorted ids as bytes, if they are strings."""
        return _Strings(self.sorted_ids)

    @cached_property
    def _dense(self) -> bool:
        """Whether the ids are integers without a gap."""
        ids = self._integers
        return ids is not None and int(ids[-1]) - int(ids[0]) == len(ids) - 1

    @cached_property
    def _array(self) -> npt.NDArray[np.float32]:
        """The vectors without the class memmap, which makes each access slower."""
        return self.vectors.view(np.ndarray)


def gather(
    vectors: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """A copy of these rows, (n, D)."""
    if len(rows) > _FEW and vectors.shape[1]:
        vectors[rows, 0]  # waits for the memory of many rows at once, not for one after the other
    return vectors.take(rows, axis=0)
