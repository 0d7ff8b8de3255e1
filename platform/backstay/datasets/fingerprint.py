"""One SHA-256 of the rows of some tables, the same for any cut into batches or files."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


class Fingerprint:
    """A hash for each stream of values, updated batch by batch, and one over them all.

    Fixed-width columns are one stream of little-endian values. Strings are two, their lengths and
    their bytes; lists are their lengths and the streams of their values. Streams are only appended
    to, so the cuts between batches change nothing.
    """

    def __init__(self) -> None:
        self._streams: dict[str, hashlib._Hash] = {}

    def update(self, table: str, batch: pa.RecordBatch) -> None:
        """Add the rows of `batch` (without nulls) to those of `table`."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._add(f"{table}.{name}", column)

    def watch(self, table: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Add the batches as they pass."""
        for batch in batches:
            self.update(table, batch)
            yield batch

    def hexdigest(self) -> str:
        """The fingerprint of everything added so far."""
        whole = hashlib.sha256()
        for name in sorted(self._streams):
            whole.update(f"{name}\n{self._streams[name].hexdigest()}\n".encode())
        return whole.hexdigest()

    def _add(self, name: str, column: pa.Array) -> None:
        if pa.types.is_list(column.type):
            self._feed(f"{name} lengths", pc.list_value_length(column).to_numpy())
            self._add(f"{name} values", column.flatten())
        elif pa.types.is_string(column.type):
            self._feed(f"{name} lengths", pc.binary_length(column).to_numpy())
            _, offsets, data = column.buffers()
            ends = np.frombuffer(offsets, np.int32)[column.offset :] if len(column) else [0]
            start, end = ends[0], ends[len(column)]
            self._stream(f"{name} string").update(memoryview(data or b"")[start:end])
        else:
            self._feed(f"{name} {column.type}", column.to_numpy())

    def _feed(self, name: str, values: npt.NDArray[np.generic]) -> None:
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        self._stream(name).update(np.ascontiguousarray(little).data)

    def _stream(self, name: str) -> "hashlib._Hash":
        return self._streams.setdefault(name, hashlib.sha256())
