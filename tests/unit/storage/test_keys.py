"""Keys on local disk: the same answers as sets and dictionaries of the ids, in bounded memory."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from backstay.errors import InputError
from backstay.storage import keys as keys_module
from backstay.storage.keys import KeyFile, key_file, matches, missing_ids, refuse_duplicates


@pytest.fixture(params=[7, 100, 1 << 20])
def at_once(request, monkeypatch):
    """In shares of this many keys, read in chunks of 11 rows, on disk from 64 bytes on."""
    monkeypatch.setattr(keys_module, "KEYS_AT_ONCE", request.param)
    monkeypatch.setattr(keys_module, "_CHUNK_ROWS", 11)
    monkeypatch.setattr(keys_module, "_IN_MEMORY", 64)


def batches(ids, strings):
    """The ids as Arrow arrays of 13."""
    column = pa.array(
        [f"id {n}" for n in ids] if strings else list(ids), pa.string() if strings else pa.int64()
    )
    return [column[at : at + 13] for at in range(0, max(1, len(column)), 13)]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("strings", [True, False])
@pytest.mark.parametrize(
    ("older", "newer"), [(range(150), range(40, 300)), (range(50), ()), ((), range(9)), ((), ())]
)
def test_rows_are_matched_and_missing_ids_counted(older, newer, strings):
    newer = list(reversed(newer))
    before, after = (key_file(batches(ids, strings)) for ids in (older, newer))
    found = {
        int(row): int(place)
        for rows, places in matches(before, after)
        for row, place in zip(rows, places, strict=True)
    }
    where = {id_: row for row, id_ in enumerate(newer)}
    assert found == {row: where.get(id_, -1) for row, id_ in enumerate(older)}
    count, examples = missing_ids(lambda: batches(older, strings), batches(newer, strings))
    gone = [f"id {id_}" if strings else id_ for id_ in older if id_ not in where]
    assert (count, examples) == (len(gone), gone[:3])


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("strings", [True, False])
def test_the_first_repeated_id_is_named_with_both_rows(strings):
    ids = [*range(100), 55, 3, 55]
    with pytest.raises(InputError, match=r"a has id .*55'? twice, in rows 55 and 100"):
        refuse_duplicates(key_file(batches(ids, strings)), batches(ids, strings), table="a")
    ids = list(range(100))
    refuse_duplicates(key_file(batches(ids, strings)), batches(ids, strings), table="a")


@pytest.mark.usefixtures("at_once")
def test_many_rows_of_one_id_are_refused():
    ids = [4] * 400
    with pytest.raises(InputError, match="rows 0 and 1"):
        refuse_duplicates(
            key_file(batches(ids, strings=False)), batches(ids, strings=False), table="a"
        )


def test_different_ids_that_share_a_key_are_no_duplicates():
    keys = KeyFile()
    keys.append(np.zeros(3, np.uint64))
    refuse_duplicates(keys, [pa.array(["a", "b", "c"])], table="a")


def _peak(rows):
    tracemalloc.start()
    try:
        ids = pa.array(range(1000))
        older, newer = KeyFile(), KeyFile()
        for first in range(0, rows, 1000):
            older.append(first + ids.to_numpy())
            newer.append(first + 7 + ids.to_numpy())
        refuse_duplicates(newer, [], table="a")
        assert sum(int((found < 0).sum()) for _, found in matches(older, newer)) == 7
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_rows(monkeypatch):
    monkeypatch.setattr(keys_module, "KEYS_AT_ONCE", 10_000)
    monkeypatch.setattr(keys_module, "_CHUNK_ROWS", 5_000)
    monkeypatch.setattr(keys_module, "_IN_MEMORY", 1_000)
    few = _peak(50_000)
    assert _peak(400_000) < 1.3 * few < 8 * 400_000
