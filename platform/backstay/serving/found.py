"""The answer to one look-up."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Found:
    """The answer to one look-up."""

    space: str
    entity: str
    version: int  # version whose space the vectors are in
    source_version: int  # version of the table they came from
    fingerprint: str  # of the build of `version`: what a consumer was trained on
    source_fingerprint: str  # of the build of the table
    asked: npt.NDArray[np.int64] | pa.Array  # (m,) as requested; an array of Arrow for strings
    found: npt.NDArray[np.bool_]  # (m,): whether the table holds each id
    values: npt.NDArray[np.float32]  # (n, D_version): one row per id found, in request order
    # (m,): the ids of lost shards, where the request allows a partial answer; they are not found.
    unanswered: npt.NDArray[np.bool_] | None = None

    @property
    def ids(self) -> pa.Array:
        """The ids as requested, (m,): int64 or large_string."""
        return pa.array(self.asked) if isinstance(self.asked, np.ndarray) else self.asked

    @property
    def found_ids(self) -> pa.Array:
        """The ids of the rows, (n,)."""
        return self.ids if len(self.values) == len(self.asked) else self._where(self.found)

    @property
    def missing(self) -> pa.Array:
        """The ids that were not found, in request order."""
        absent = ~self.found
        return self._where(absent if self.unanswered is None else absent & ~self.unanswered)

    @property
    def unanswered_ids(self) -> pa.Array:
        """The ids of lost shards, in request order."""
        return self.ids[:0] if self.unanswered is None else self._where(self.unanswered)

    def first_id(self) -> int | str:
        """The first id as requested."""
        first = self.asked[0]
        id_: int | str = first.item() if isinstance(self.asked, np.ndarray) else first.as_py()
        return id_

    def _where(self, mask: npt.NDArray[np.bool_]) -> pa.Array:
        return self.ids.filter(pa.array(mask))
