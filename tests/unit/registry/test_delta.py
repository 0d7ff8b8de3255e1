"""Tables stored as a delta: every reader finds exactly the rows that were written."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.errors import BackstayError, CorruptError, InputError
from backstay.evaluation.table_maps.outside_tables import open_outside_table
from backstay.registry import retirement
from backstay.registry.store import Registry
from backstay.registry.stored import deltas, open_table
from backstay.registry.verify import verify
from backstay.serving.copies import Key, open_table_copy
from tests.support.builders import publish
from tests.support.deltas import DIM, edited, pair, read, rows_of, vectors, write


def expected(base_ids, new_ids, values):
    """Reading order, by the slow way: in the base's order, then the new rows as they came."""
    found = dict(zip(new_ids, (value.tobytes() for value in values), strict=True))
    order = [id_ for id_ in base_ids if id_ in found]
    order += [id_ for id_ in new_ids if id_ not in set(base_ids)]
    return [(id_, found[id_]) for id_ in order]


@given(data=st.data(), strings=st.booleans(), rows=st.integers(20, 60))
@settings(max_examples=40, deadline=None)
def test_any_few_changes_are_read_back_exactly(data, strings, rows):
    name = str if strings else int
    space = Registry("memory://delta-property").space("movies")
    try:
        ids = [name(n) for n in range(0, 2 * rows, 2)]
        values = vectors(rows)
        part_rows = data.draw(st.integers(8, 50))
        write(space, pa.array(ids), values, part_rows=part_rows)
        most = rows // 5
        changed = data.draw(st.sets(st.integers(0, rows - 1), max_size=most))
        gone = data.draw(st.sets(st.integers(0, rows - 1), max_size=most - len(changed)))
        added = data.draw(st.integers(0, most - len(changed | gone)))
        newer = dict(zip(ids, values.copy(), strict=True))
        for at in changed:
            newer[ids[at]] = newer[ids[at]] + np.float32(1)
        for at in gone:
            del newer[ids[at]]
        newer |= {name(2 * n + 1): np.full(DIM, n, np.float32) for n in range(added)}
        order = data.draw(st.permutations(list(newer))) if data.draw(st.booleans()) else list(newer)
        table = np.stack([newer[id_] for id_ in order])
        write(space, pa.array(order), table, base=0, part_rows=part_rows)
        delta = deltas(space, space.manifest(1))["item"]
        assert (delta.changed_rows, delta.deleted_rows) == (len(changed - gone), len(gone))
        wanted = expected(ids, order, table)
        stored, batch_rows = space.table(1, "item"), data.draw(st.integers(3, 60))
        assert read(stored, batch_rows=batch_rows) == wanted
        found = [id_ for batch in stored.id_batches(batch_rows) for id_ in batch.to_pylist()]
        assert found == [id_ for id_, _ in wanted]
        assert verify(space, 1) == []
    finally:
        space.files.remove("")


@pytest.fixture
def delta(space):
    """A space whose version 1 is a delta, and the rows of version 1."""
    ids, values = pair(space)
    return space, expected([f"i{n}" for n in range(100)], ids.to_pylist(), values)


def test_a_delta_takes_the_bytes_of_its_rows(delta):
    space, rows = delta
    manifest = space.manifest(1)
    assert manifest.format == 3
    assert manifest.entities["item"].rows == len(rows) == 100
    assert set(manifest.files) >= {
        "tables/item/changed-00000.parquet",
        "tables/item/changed-00001.parquet",
        "tables/item/deleted-00000.parquet",
        "tables/item/part-00000.parquet",
    }
    assert space.manifest(0).format == 2


def test_readers_by_path_and_the_service_read_the_whole_table(delta, tmp_path):
    space, rows = delta
    location = space.files.fs.unstrip_protocol(space.files.full(space.path(1, "tables/item")))
    table = open_table(location)
    assert read(table) == rows
    assert (table.version, table.fingerprint) == (1, space.manifest(1).fingerprint("item"))
    with pytest.raises(InputError, match="is labelled version 1; expected version 0"):
        open_table(location, version=0)
    outside = open_outside_table(location)
    found = [row for ids, values in outside.batches() for row in rows_of(ids, values)]
    assert found == rows
    assert outside.keys.rows == 100
    key = Key("movies", "item", 1, space.manifest(1).sha256)
    served = open_table_copy(Registry(space.uri), key, cache=tmp_path / "cache").table
    places, known = served.find(pa.array(["i3", "i0", "x"], pa.large_string()))
    assert known.tolist() == [True, False, True]
    assert [v.tobytes() for v in served.gather(places)] == [dict(rows)["i3"], dict(rows)["x"]]


def test_a_delta_without_its_registry_is_refused(delta, tmp_path):
    space, _ = delta
    for name in space.files.find(space.path(1, "tables/item")):
        (tmp_path / "copy").mkdir(exist_ok=True)
        data = space.files.read(space.path(1, f"tables/item/{name}"))
        (tmp_path / "copy" / name).write_bytes(data)
    for opened in (open_table, open_outside_table):
        with pytest.raises(InputError, match=r"changes to a base, movies version 0.*compact"):
            opened(tmp_path / "copy")


def test_rows_that_differ_in_one_bit_are_changed(space):
    ids, values = pa.array(range(20)), np.zeros((20, DIM), np.float32)
    write(space, ids, values)
    values[4, 1] = -0.0
    write(space, ids, values, base=0)
    assert deltas(space, space.manifest(1))["item"].changed_rows == 1
    assert read(space.table(1, "item")) == rows_of(ids, values)


@pytest.mark.parametrize("differing", [{"changed": range(21)}, {"gone": range(21)}])
def test_many_differences_are_stored_as_a_whole_table_in_its_own_order(space, differing):
    ids, values = pa.array(range(100)), vectors(100)
    write(space, ids, values)
    newer = edited(ids, values, **differing)
    newer = newer[0][::-1], newer[1][::-1].copy()
    assert write(space, *newer, base=0).format == 2
    assert deltas(space, space.manifest(1)) == {}
    assert read(space.table(1, "item")) == rows_of(*newer)


@pytest.mark.parametrize(
    ("ids", "dim"), [(pa.array([str(n) for n in range(9)]), DIM), (pa.array(range(9)), 4)]
)
def test_other_ids_or_dimensions_are_stored_whole(space, ids, dim):
    write(space, pa.array(range(9)), vectors(9))
    write(space, ids, np.ones((9, dim), np.float32), base=0)
    assert deltas(space, space.manifest(1)) == {}
    assert space.table(1, "item").rows == 9


def test_a_delta_is_never_based_on_a_delta(space):
    ids, values = pair(space)
    values = values.copy()
    values[10] += 1
    write(space, ids, values, base=1)
    delta = deltas(space, space.manifest(2))["item"]
    assert (delta.base, delta.changed_rows) == (0, 4)
    assert dict(read(space.table(2, "item"))) == dict(rows_of(ids, values))


def test_an_equal_table_takes_a_commit_file_alone(space):
    ids, values = pa.array(range(9)), vectors(9)
    write(space, ids, values)
    manifest = write(space, ids, values, base=0)
    assert list(manifest.files) == ["tables/item/_table.json"]
    assert read(space.table(1, "item")) == rows_of(ids, values)
    assert verify(space, 1) == []


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        ([1, 2, 1], np.ones((3, DIM), np.float32), "has id 1 twice, in rows 0 and 2"),
        ([1, 2, 3], np.full((3, DIM), np.nan, np.float32), "row 0, id 1: the vector isn't finite"),
        ([1, None, 3], np.ones((3, DIM), np.float32), "row 1 has no id"),
    ],
)
def test_bad_rows_are_refused_as_ever(space, ids, values, message):
    write(space, pa.array(range(9)), vectors(9))
    draft = space.draft(1, run_id="bad")
    with pytest.raises(InputError, match=message):
        draft.write_table("item", [(pa.array(ids), values)], base=0)
    assert space.drafts() == []


def test_a_base_that_is_retired_before_publication_is_missed(space):
    ids, values = pa.array(range(9)), vectors(9)
    for _ in range(2):
        write(space, ids, values + len(space.versions()), mapped=True)
    draft = space.draft(2, run_id="late")
    draft.write_table("item", [(ids, values)], base=0)
    retirement.retire(space, 0)
    with pytest.raises(CorruptError, match="version 0 is retired, though the table of item"):
        publish(draft)
    assert space.versions() == [0, 1]


def test_every_flipped_byte_of_a_delta_or_its_base_is_detected(local_space):
    pair(local_space)
    files = local_space.files
    wanted = read(local_space.table(1, "item"))
    rng = random.Random(0)
    names = [
        local_space.path(version, name)
        for version in (0, 1)
        for name in local_space.manifest(version).files
        if name.startswith("tables/")
    ]
    assert len(names) > 8
    for name in names * 15:
        data = files.read(name)
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        files.write(name, bytes(changed))
        if name.startswith(local_space.path(0)) and name.endswith("_table.json"):
            assert verify(local_space, 0)  # readers of version 1 take it from there, too
        with pytest.raises(BackstayError):
            assert read(local_space.table(1, "item")) == wanted
        files.write(name, data)
    assert read(local_space.table(1, "item")) == wanted


def test_another_base_of_the_same_shape_is_refused(local_space, tmp_path):
    pair(local_space)
    other = Registry(tmp_path / "other").space("movies")
    write(other, pa.array([f"i{n}" for n in range(100)]), vectors(100, seed=9), part_rows=30)
    for name in other.files.find(other.path(0)):
        local_space.files.write(local_space.path(0, name), other.files.read(other.path(0, name)))
    with pytest.raises(CorruptError, match=r"manifest|SHA-256"):
        local_space.table(1, "item")
    assert verify(local_space, 1)
