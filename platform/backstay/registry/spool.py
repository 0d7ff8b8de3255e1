"""The rows of a table on local disk, in the order they came; any of them are read by number."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from backstay.registry.table_layout import Float32, check_batch
from backstay.registry.tables import Batch
from backstay.storage.ids import id_keys, string_bytes
from backstay.storage.keys import KeyFile, Rows

BATCH_ROWS = 1 << 14


@dataclass(frozen=True, kw_only=True, eq=False)
class Spool:
    """Rows that `write_spool` has written."""

    keys: KeyFile
    ids: pa.Array  # (n,) int64 or large_string, a memory map
    values: Float32  # (n, D), a memory map

    def take(self, rows: Rows) -> Batch:
        """Some rows, in the given order."""
        first, last = (rows[0], rows[-1]) if len(rows) else (0, -1)
        if last - first + 1 == len(rows) and (np.diff(rows) == 1).all():
            return _narrow(self.ids[first : last + 1]), self.values[first : last + 1]
        return _narrow(self.ids.take(pa.array(rows))), self.values[rows]

    def batches(self) -> Iterator[Batch]:
        """All rows; one empty batch without rows."""
        for start in range(0, max(1, self.keys.rows), BATCH_ROWS):
            rows = slice(start, start + BATCH_ROWS)
            yield _narrow(self.ids[rows]), self.values[rows]


def write_spool(batches: Iterable[Batch], folder: Path, *, schema: pa.Schema) -> Spool:
    """Write rows to files in `folder`; InputError where a row breaks the schema."""
    keys, end = KeyFile(), 0
    paths = [folder / name for name in ("ids", "ends", "vectors")]
    strings = pa.types.is_string(schema.field("id").type)
    with ExitStack() as stack:
        data, ends, vectors = (stack.enter_context(path.open("wb")) for path in paths)
        ends.write(bytes(8))
        for ids, values in batches:
            check_batch(ids, values, schema=schema, first_row=keys.rows)
            keys.append(id_keys(ids))
            vectors.write(np.ascontiguousarray(values).data)
            if strings and len(ids):
                own_ends, text = string_bytes(ids)
                ends.write((end + own_ends[1:]).data)
                data.write(text.data)
                end += len(text)
            elif len(ids):
                data.write(ids.to_numpy().data)
    mapped_ids, mapped_ends, mapped = map(_mapped, paths)
    dim = schema.field("embedding").type.list_size
    return Spool(
        keys=keys,
        ids=pa.LargeStringArray.from_buffers(keys.rows, mapped_ends, mapped_ids)
        if strings
        else pa.Array.from_buffers(pa.int64(), keys.rows, [None, mapped_ids]),
        values=np.frombuffer(mapped, np.float32).reshape(-1, dim),
    )


def _mapped(path: Path) -> pa.Buffer:
    if not path.stat().st_size:
        return pa.py_buffer(b"")  # no bytes can't be mapped
    return pa.memory_map(str(path)).read_buffer()


def _narrow(ids: pa.Array) -> pa.Array:
    """Ids of a type of `ID_TYPES`."""
    return ids.cast(pa.string()) if pa.types.is_large_string(ids.type) else ids
