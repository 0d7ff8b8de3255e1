import signal
import subprocess
import textwrap
import threading
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.errors import CorruptError
from backstay.serving.mapped import open_cached
from tests.support.processes import start_python

INT64 = st.integers(-(2**63), 2**63 - 1)
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@dataclass
class FakeTable:
    """As much of an EmbeddingTable as copying needs."""

    ids: pa.Array
    values: np.ndarray
    id_type: str = "int64"
    read: list = field(default_factory=list)

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


def cached(table, folder, *, version=0, manifest_hash="a" * 64):
    return open_cached(table, folder=folder, version=version, manifest_hash=manifest_hash)


def check_finds(table, opened, asked):
    rows, found = opened.find(pa.array(asked, opened.sorted_ids.type))
    held = table.ids.to_pylist()
    assert found.tolist() == [id_ in held for id_ in asked]
    assert rows.tolist() == [held.index(id_) for id_ in asked if id_ in held]
    assert np.array_equal(opened.gather(rows), table.values[rows])


@settings(max_examples=40, deadline=None)
@given(st.lists(INT64, unique=True, max_size=30), st.lists(INT64, max_size=10))
def test_integer_ids_are_found_as_a_list_finds_them(tmp_path_factory, ids, others):
    table = fake(ids)
    check_finds(table, cached(table, tmp_path_factory.mktemp("c")), others + ids[::-1] + ids[:3])


@settings(max_examples=40, deadline=None)
@given(st.lists(STRINGS, unique=True, max_size=30), st.lists(STRINGS, max_size=10))
def test_string_ids_are_found_as_a_list_finds_them(tmp_path_factory, ids, others):
    table = fake(ids, id_type="string")
    check_finds(table, cached(table, tmp_path_factory.mktemp("c")), others + ids[::-1] + ids[:3])


def test_a_table_is_copied_once_and_answers_without_its_source(tmp_path):
    table = fake([3, 1, 2, 9])
    cached(table, tmp_path)
    check_finds(table, cached(table, tmp_path), [9, 5, 3])
    assert table.read == [1]


def test_vectors_are_mapped_and_read_only(tmp_path):
    opened = cached(fake([1, 2]), tmp_path)
    assert isinstance(opened.vectors, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        opened.vectors[0, 0] = 1


def test_processes_that_come_together_copy_once(tmp_path):
    table = fake(list(range(50)))
    threads = [threading.Thread(target=cached, args=(table, tmp_path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table.read == [1]


def test_a_newer_version_evicts_older_copies_that_still_answer_who_holds_them(tmp_path):
    old = fake([1, 2])
    held = cached(old, tmp_path, version=0)
    cached(fake([2, 3]), tmp_path, version=1, manifest_hash="b" * 64)
    assert [path.name[0] for path in tmp_path.iterdir() if path.is_dir()] == ["1"]
    check_finds(old, held, [2, 1, 3])


def test_an_older_version_evicts_nothing(tmp_path):
    cached(fake([1]), tmp_path, version=1)
    cached(fake([1]), tmp_path, version=0)
    assert sorted(p.name[0] for p in tmp_path.iterdir() if p.is_dir()) == ["0", "1"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused(tmp_path, bad):
    table = fake([1, 2])
    table.values[1, 0] = bad
    with pytest.raises(CorruptError, match="NaN"):
        cached(table, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_an_id_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(CorruptError, match="id 7 more than once"):
        cached(fake([7, 1, 7]), tmp_path)


def test_rows_that_are_lacking_are_refused(tmp_path):
    table = fake([1, 2, 3])
    table.ids = table.ids[:2]
    table.batches = lambda: [(table.ids, table.values[:2])]
    with pytest.raises(CorruptError, match="must hold 3 ids; found 2"):
        cached(table, tmp_path)


KILLED_HALF_WAY = """
import sys, numpy as np, pyarrow as pa
from pathlib import Path
from backstay.serving.mapped import open_cached

class Table:
    rows, dim, id_type = 4, 2, "int64"
    def batches(self):
        yield pa.array([1, 2]), np.ones((2, 2), np.float32)
        print("half", flush=True)
        sys.stdin.read()

open_cached(Table(), folder=Path(sys.argv[1]), version=0, manifest_hash="a" * 64)
"""


def test_a_copier_killed_half_way_leaves_nothing_that_is_taken_for_a_copy(tmp_path):
    with start_python(
        *("-c", textwrap.dedent(KILLED_HALF_WAY), tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as copier:
        assert copier.stdout.readline() == b"half\n"
        assert list(tmp_path.glob(".*.partial/content/vectors.npy"))
        copier.send_signal(signal.SIGKILL)
    table = fake([5, 6, 7, 8])
    check_finds(table, cached(table, tmp_path), [8, 1, 5])
    assert list(tmp_path.glob(".*.partial")) == []
