"""Tables that never were in a registry, and local copies of them."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from backstay.serving.copies import Key, open_table_copy

HASH = "a" * 64


@dataclass
class FakeTable:
    """As much of a registry, a space and an EmbeddingTable as copying needs."""

    ids: pa.Array
    values: np.ndarray
    id_type: str = "int64"
    read: list = field(default_factory=list)

    def space(self, _name):
        return self

    def manifest(self, _version):
        return SimpleNamespace(sha256=HASH)

    def table(self, _version, _entity):
        return self

    @property
    def rows(self):
        return len(self.values)

    @property
    def dim(self):
        return self.values.shape[1]

    def batches(self):
        self.read.append(1)
        for start in range(0, len(self.values), 3):
            yield self.ids[start : start + 3], self.values[start : start + 3]


def fake(ids, *, dim=2, id_type="int64"):
    type_ = pa.int64() if id_type == "int64" else pa.string()
    values = np.arange(len(ids) * dim, dtype=np.float32).reshape(len(ids), dim)
    return FakeTable(pa.array(ids, type_), values, id_type)


def key_of(version=0, manifest_sha256=HASH):
    return Key("movies", "user", version, manifest_sha256)


def opened(table, cache, *, key=None):
    """A table's copy, which stays in use as long as the result lives."""
    return open_table_copy(table, key or key_of(), cache=cache)


def cached(table, cache):
    return opened(table, cache).table


def check_finds(table, copy, asked):
    held = table.ids.to_pylist()
    integers = table.id_type == "int64"
    for some in (asked, *([id_] for id_ in asked)):  # one id is found in another way
        rows, found = copy.find(
            np.array(some, np.int64) if integers else pa.array(some, "large_string")
        )
        assert found.tolist() == [id_ in held for id_ in some]
        assert rows.tolist() == [held.index(id_) for id_ in some if id_ in held]
        assert np.array_equal(copy.gather(rows), table.values[rows])
