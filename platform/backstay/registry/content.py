"""The content hash of a table: of its ids and vectors in reading order, however they are stored."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backstay.registry.tables import Batch


class ContentHash:
    """A hash of rows that arrive in batches. The sizes of the batches make no difference."""

    def __init__(self) -> None:
        self._hashes = [hashlib.sha256() for _ in range(3)]

    def add(self, batch: Batch) -> None:
        """Take in the next rows."""
        lengths, ids, vectors = self._hashes
        if pa.types.is_integer(batch[0].type):
            ids.update(np.ascontiguousarray(batch[0].to_numpy(), "<i8").data)
        else:
            text = batch[0].cast(pa.large_binary())
            lengths.update(pc.binary_length(text).to_numpy().astype("<i8").data)
            offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset :]
            if len(text):
                data = text.buffers()[2] or pa.py_buffer(b"")
                ids.update(memoryview(data)[offsets[0] : offsets[len(text)]])
        vectors.update(np.ascontiguousarray(batch[1], "<f4").data)

    def through(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, and take in each."""
        for batch in batches:
            self.add(batch)
            yield batch

    def hexdigest(self) -> str:
        """The hash of all rows so far, SHA-256."""
        return hashlib.sha256(b"".join(part.digest() for part in self._hashes)).hexdigest()
