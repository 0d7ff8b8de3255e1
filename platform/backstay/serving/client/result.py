"""The answer to a look-up."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.errors import NotFoundError
from backstay.registry.table_layout import record_batch, table_schema
from backstay.serving.client.ids import IdArray
from backstay.storage.ids import ID_TYPES, IdType

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 5  # most ids in a message


@dataclass(frozen=True, eq=False, kw_only=True)
class LookupResult:
    """Vectors of many ids, all from one table. Unpacks as `ids, values`."""

    space: str
    entity: str
    ids: IdArray  # (n,) int64 or str (object): the ids found, in the order asked
    values: npt.NDArray[np.float32 | np.float16]  # (n, D_version)
    missing: IdArray  # ids that the table does not hold, in the order asked
    unanswered: IdArray  # ids of lost shards, in the order asked; empty unless partial=True
    version: int  # version whose space the vectors are in
    source_version: int  # version of the table that they come from
    fingerprint: str  # of the build of `version`; compare it with the one your model was built for
    source_fingerprint: str  # of the build of the table

    def __iter__(self) -> Iterator[Any]:
        return iter((self.ids, self.values))

    def refuse_missing(self, *, way_out: str) -> None:
        """NotFoundError if an id is missing. `way_out` says how to leave missing ids out."""
        if len(self.missing):
            shown = ", ".join(map(repr, self.missing[:_SHOWN].tolist()))
            raise NotFoundError(
                f"{self.entity!r} of space {self.space!r} has no vector for {len(self.missing)} of "
                f"{len(self.missing) + len(self.unanswered) + len(self.ids)} ids: {shown}"
                f"{', …' if len(self.missing) > _SHOWN else ''}. Check these ids, or {way_out}."
            )

    def to_arrow(self) -> pa.Table:
        """Columns `id` and `embedding`, labelled like a table of the registry.

        `backstay convert` and `backstay import` read it from a Parquet file.
        """
        id_type: IdType = "int64" if self.ids.dtype == np.int64 else "string"
        schema = table_schema(
            self.values.shape[1],
            id_type,
            space=self.space,
            entity=self.entity,
            version=self.version,
            dtype="float16" if self.values.dtype == np.float16 else "float32",
            fingerprint=self.fingerprint,
        )
        ids = pa.array(self.ids, ID_TYPES[id_type])
        return pa.Table.from_batches([record_batch(ids, self.values, schema=schema)])

    def to_pandas(self) -> "pd.DataFrame":
        """One row per id, which is the index; one column per dimension."""
        import pandas as pd  # noqa: PLC0415 - half a second to import

        return pd.DataFrame(self.values, index=pd.Index(self.ids, name="id"))
