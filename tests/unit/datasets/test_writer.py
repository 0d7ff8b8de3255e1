import signal
import subprocess
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.datasets.dataset import Dataset
from backstay.datasets.writer import interaction_schema, item_schema, write_dataset
from backstay.errors import BackstayError, InputError, UsageError
from backstay.storage.folders import remove_abandoned
from tests.support.processes import start_python

SCHEMA = interaction_schema()
ROWS = [("b", "y", 4.0, 9), ("a", "x", 3.0, 2), ("b", "x", 1.0, 2), ("c", "z", 5.0, 9)]


def batches(rows, sizes=(), schema=SCHEMA):
    """The rows, cut after each of `sizes`."""
    cuts = [0, *np.cumsum(sizes, dtype=int).tolist(), len(rows)]
    for start, end in pairwise(cuts):
        columns = list(zip(*rows[start:end], strict=True)) or [[], [], [], []]
        yield pa.RecordBatch.from_arrays(
            [pa.array(column, type_) for column, type_ in zip(columns, schema.types, strict=True)],
            schema=schema,
        )


def items(rows, kinds=("genre",), item_id=None):
    schema = item_schema(kinds, item_id=item_id)
    return [
        pa.RecordBatch.from_pylist(
            [dict(zip(schema.names, row, strict=True)) for row in rows], schema
        )
    ]


def write(out, interactions=None, described=(), **options):
    interactions = batches(ROWS) if interactions is None else interactions
    return write_dataset(
        out, name="x", source={}, interactions=interactions, items=described, **options
    )


def read(out, name="interactions"):
    return [tuple(row.values()) for row in pq.read_table(out / f"{name}.parquet").to_pylist()]


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from("xyzß"),
            st.sampled_from([1.0, 5.0]),
            st.integers(-3, 3),
        ),
        min_size=1,
        max_size=30,
    ),
    sizes=st.lists(st.integers(0, 7), max_size=4),
)
def test_the_sort_is_stable_and_batches_leave_no_trace(rows, sizes, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    described = [("x", ["g", "h"]), ("ß", []), ("y", ["g"])]
    info = write(out, batches(rows, sizes), items(described))
    assert read(out) == sorted(rows, key=lambda row: row[3])
    whole = tmp_path_factory.mktemp("whole")
    in_order = batches(sorted(rows, key=lambda row: row[3]))
    halves = [*items(described[:1]), *items(described[1:])]
    assert write(whole, in_order, halves, presorted=True).fingerprint == info.fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        {"interactions": batches([*ROWS[:3], ("c", "z", 5.0, 10)])},
        {"interactions": batches([*ROWS[:3], ("c", "z", 4.5, 9)])},
        {"interactions": batches([*ROWS[:3], ("d", "z", 5.0, 9)])},
        {"interactions": batches(ROWS[::-1])},
        {"interactions": batches([("bc", "y", 4.0, 9), *ROWS[1:3], ("", "z", 5.0, 9)])},
        {"described": items([("x", ["gh"])])},
        {"described": items([("x", ["h", "g"])])},
        {"described": items([("y", ["g", "h"])])},
        {"described": items([("x", ["g", "h"])], kinds=("brand",))},
    ],
)
def test_any_change_of_the_rows_changes_the_fingerprint(changed, tmp_path):
    same = {"described": items([("x", ["g", "h"])])}
    before = write(tmp_path / "a", batches(ROWS), **same).fingerprint
    assert write(tmp_path / "b", **{**same, **changed}).fingerprint != before


def test_integers_and_the_same_digits_have_different_fingerprints(tmp_path):
    rows = [(1, 2, 3.0, 4)]
    integers = interaction_schema(user_id=pa.int64(), item_id=pa.int64())
    texts = [("1", "2", 3.0, 4)]
    first = write(tmp_path / "a", batches(rows, schema=integers))
    assert write(tmp_path / "b", batches(texts)).fingerprint != first.fingerprint
    assert read(tmp_path / "a") == rows


def test_items_first_row_wins_the_unmentioned_go_and_the_bare_are_counted(tmp_path):
    described = [("q", ["g"]), ("x", ["g"]), ("x", ["other"]), ("y", [])]
    info = write(tmp_path / "out", described=items(described), skipped={"torn": 2})
    assert read(tmp_path / "out", "items") == [("x", ["g"]), ("y", []), ("z", [])]
    assert info.counts == {
        "interactions": 4,
        "users": 3,
        "items": 3,
        "items_without_attributes": 2,
        "items_without_interactions": 1,
    }
    assert info.skipped == {"torn": 2, "metadata: item described before": 1}
    assert (info.time_span, info.rating_range) == ((2, 9), (1.0, 5.0))


def test_without_metadata_every_item_is_there_and_bare(tmp_path):
    info = write(tmp_path / "out")
    assert read(tmp_path / "out", "items") == [("x",), ("y",), ("z",)]
    assert (info.attribute_kinds, info.counts["items_without_attributes"]) == ((), 3)


def test_rare_values_of_a_kind_are_left_out_counted_over_the_items_kept(tmp_path):
    rows = [("x", ["a", "b", "a"], ["a"]), ("y", ["b", "c"], ["b"]), ("q", ["c"], [])]
    described = items(rows, kinds=("title", "brand"))
    write(tmp_path / "out", described=described, min_items={"title": 2, "absent": 9})
    expected = [("x", ["b"], ["a"]), ("y", ["b"], ["b"]), ("z", [], [])]
    assert read(tmp_path / "out", "items") == expected


def test_reasons_are_read_when_the_streams_have_ended(tmp_path):
    skipped = {}

    def counting():
        yield from batches(ROWS)
        skipped["late"] = 3

    assert write(tmp_path / "out", counting(), skipped=skipped).skipped == {"late": 3}


@pytest.mark.parametrize(
    ("interactions", "described", "match"),
    [
        (batches(ROWS, schema=SCHEMA.set(3, pa.field("timestamp", pa.int32()))), (), "int32"),
        (batches(ROWS, schema=SCHEMA.set(0, pa.field("user", pa.string()))), (), "user_id"),
        (batches([("a", None, 1.0, 1)]), (), "every row of item_id, found nulls"),
        (batches([("a", "b", float("nan"), 1)]), (), "finite ratings"),
        (batches(ROWS), items([(1, [])], item_id=pa.int64()), "as in the interactions"),
        (batches(ROWS), items([("x", [None])]), "every row of genre, found nulls"),
    ],
)
def test_batches_that_break_their_schema_are_refused(interactions, described, match, tmp_path):
    with pytest.raises(UsageError, match=match):
        write(tmp_path / "out", interactions, described)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_promise_of_order_and_no_rows_are_refused(tmp_path):
    with pytest.raises(UsageError, match="expected interactions in time order"):
        write(tmp_path / "out", presorted=True)
    with pytest.raises(InputError, match="no interaction to write"):
        write(tmp_path / "out", batches([]))
    assert list(tmp_path.iterdir()) == []


def test_a_failing_stream_leaves_nothing_and_its_error_passes(tmp_path):
    def failing():
        yield from batches(ROWS)
        raise InputError("line 7 is torn")

    with pytest.raises(InputError, match="line 7 is torn"):
        write(tmp_path / "deep" / "out", failing())
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize("limit", ["1KB", "plenty"])
def test_too_little_memory_is_one_clear_error(limit, tmp_path):
    rows = [(f"user {n}", f"item {n}", 1.0, -n) for n in range(5000)]
    with pytest.raises(BackstayError, match=f"with {limit} of memory failed: .*more memory"):
        write(tmp_path / "out", batches(rows), memory_limit=limit)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken_a_file_is_not(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="nothing is ever overwritten"):
        write(tmp_path / "file")


def test_a_path_with_wildcards_in_it_is_a_path(tmp_path):
    (tmp_path / "a[1]*").mkdir()
    info = write(tmp_path / "a[1]*" / "it's", described=items([("x", ["g"])]))
    assert Dataset.open(tmp_path / "a[1]*" / "it's").info == info


KILLED = """
import sys, time
from pathlib import Path
import pyarrow as pa
from backstay.datasets.writer import interaction_schema, write_dataset

def rows():
    for second in (2, 1):
        yield pa.RecordBatch.from_pydict(
            {"user_id": ["a"], "item_id": ["b"], "rating": [1.0], "timestamp": [second]},
            schema=interaction_schema(),
        )
    print("half-way", flush=True)
    time.sleep(600)

write_dataset(Path(sys.argv[1]), name="x", source={}, interactions=rows(), items=())
"""


def test_a_killed_writer_leaves_no_dataset_and_the_next_one_clears_up(tmp_path):
    out = tmp_path / "out"
    with start_python("-c", KILLED, out, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"half-way\n"
        [staging] = tmp_path.glob(".out.*.partial")
        remove_abandoned(tmp_path)
        assert staging.is_dir()
        writer.send_signal(signal.SIGKILL)
    assert not out.exists()
    assert staging.is_dir()
    write(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
