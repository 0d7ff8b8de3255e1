"""Sparse rows (CSR): one container for attributes per item, neighbours per node and the like."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Csr:
    """Sparse rows: row r holds `columns[starts[r]:starts[r + 1]]`."""

    starts: npt.NDArray[np.int64]  # (rows + 1,)
    columns: npt.NDArray[np.int32]  # (entries,)

    @classmethod
    def of(cls, rows: Integers, columns: Integers, shape: tuple[int, int]) -> Self:
        """From coordinates in any order, sorted by row and column; duplicates stay."""
        keys = np.sort(rows.astype(np.int64) * shape[1] + columns)
        counts = np.bincount(keys // shape[1], minlength=shape[0])
        return cls(starts_of(counts), (keys % shape[1]).astype(np.int32))

    def counts(self, rows: Integers) -> npt.NDArray[np.int64]:
        """The number of entries of each of the given rows."""
        counts: npt.NDArray[np.int64] = self.starts[rows + 1] - self.starts[rows]
        return counts

    def entries(self, rows: Integers) -> npt.NDArray[np.int64]:
        """The positions of the given rows' entries, one row after the other."""
        return ranges(self.starts[rows], self.counts(rows))


def starts_of(counts: Integers | npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(rows + 1,) where each row starts, from the number of entries per row."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def ranges(starts: Integers, counts: Integers) -> npt.NDArray[np.int64]:
    """Concatenate `arange(start, start + count)` over all pairs."""
    before = np.cumsum(counts) - counts
    positions: npt.NDArray[np.int64] = np.repeat(starts - before, counts) + np.arange(counts.sum())
    return positions
