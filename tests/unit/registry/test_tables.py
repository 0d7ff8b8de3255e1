import tracemalloc
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.errors import CorruptError, InputError, RegistryError
from backstay.registry import table_writer
from backstay.registry.labels import check_labels
from backstay.registry.stored import open_table
from backstay.registry.table_commit import COMMIT
from backstay.registry.table_layout import record_batch, table_schema
from backstay.registry.table_writer import write_table_parts
from backstay.storage.files import open_files

OF = {"space": "movies", "entity": "item", "version": 2}


def _batch(ids, dim=3, value=1.0):
    return pa.array(ids), np.full((len(ids), dim), value, np.float32)


def _plain(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def _vectors(rows, dim=3, dtype=np.float32):
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ones(rows * dim, dtype)), dim)


def test_a_table_that_was_written_opens_as_itself(tmp_path):
    written = write_table_parts(tmp_path / "t", [_batch(["a", "b"]), _batch(["c"])], **OF)
    table = open_table(tmp_path / "t")
    assert (table.space, table.entity, table.version) == ("movies", "item", 2)
    assert (table.rows, table.dim, table.id_type) == (3, 3, "string")
    assert (written.rows, written.dim, written.id_type) == (3, 3, "string")
    assert list(written.files) == ["part-00000.parquet", COMMIT]
    assert open_table(tmp_path / "t" / "part-00000.parquet").rows == 3


def test_a_table_on_another_file_system(tmp_path):
    written = write_table_parts("memory://tables/t", [_batch([1, 2])], **OF)
    assert open_table("memory://tables/t").read()[0].to_pylist() == [1, 2]
    with pytest.raises(InputError, match="not empty"):
        write_table_parts("memory://tables/t", [_batch([1, 2])], **OF)
    with pytest.raises(InputError, match="twice"):
        write_table_parts("memory://tables/u", [_batch([1, 1])], **OF)
    with pytest.raises(InputError, match="holds no table"):
        open_table("memory://tables/u")
    local = write_table_parts(tmp_path / "t", [_batch([1, 2])], **OF)
    digests = [sorted(one.sha256 for name, one in table.files.items() if name != COMMIT)
               for table in (local, written)]  # fmt: skip
    assert digests[0] == digests[1]


def test_parts_are_plain_parquet_that_others_read(tmp_path):
    write_table_parts(tmp_path / "t", [_batch([1, 2, 3])], part_rows=2, **OF)
    assert [p.name for p in sorted((tmp_path / "t").iterdir())] == [
        COMMIT,
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    part = tmp_path / "t" / "part-00000.parquet"
    column = pq.ParquetFile(part).metadata.row_group(0).column(1)
    assert column.compression == "UNCOMPRESSED"
    assert not column.has_dictionary_page
    found = duckdb.sql(f"select id, embedding[2] from '{tmp_path}/t/*.parquet' order by id")
    assert found.fetchall() == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert pd.read_parquet(part)["embedding"].map(len).tolist() == [3, 3]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6),
    part_rows=st.integers(1, 9),
    batch_rows=st.integers(1, 9),
)
def test_rows_come_back_whatever_the_batches(sizes, part_rows, batch_rows):
    files = open_files("memory://any")
    rng = np.random.default_rng(0)
    ids = np.arange(sum(sizes))
    values = rng.normal(size=(sum(sizes), 2)).astype(np.float32)
    cuts = np.cumsum(sizes)[:-1]
    batches = zip(map(pa.array, np.split(ids, cuts)), np.split(values, cuts), strict=True)
    try:
        write_table_parts("memory://any/t", batches, part_rows=part_rows, **OF)
        table = open_table("memory://any/t")
        assert len(table.parts) == max(1, -(-len(ids) // part_rows))
        assert all(len(ids) <= batch_rows for ids, _ in table.batches(batch_rows))
        found, vectors = table.read()
        assert found.to_pylist() == ids.tolist()
        np.testing.assert_array_equal(vectors, values)
    finally:
        files.remove("")


def test_a_producer_may_fill_one_buffer_again_and_again(tmp_path):
    buffer = np.empty((2, 3), np.float32)

    def batches():
        for n in range(4):
            buffer[:] = n
            yield pa.array([2 * n, 2 * n + 1]), buffer

    write_table_parts(tmp_path / "t", batches(), part_rows=5, **OF)
    values = open_table(tmp_path / "t").read()[1]
    assert values[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("id_", [7, "köln"])
def test_an_id_that_comes_twice_is_named_with_its_rows(tmp_path, id_):
    ids = [*((str(n) for n in range(9)) if isinstance(id_, str) else range(100, 109)), id_]
    batches = [_batch(ids), _batch([id_])]
    with pytest.raises(InputError, match=rf"id {id_!r} twice, in rows 9 and 10"):
        write_table_parts(tmp_path / "t", batches, part_rows=4, **OF)
    assert list(tmp_path.iterdir()) == []


def test_ids_whose_hashes_collide_are_not_duplicates(tmp_path, monkeypatch):
    monkeypatch.setattr("pandas.util.hash_array", lambda v, **_: np.zeros(len(v), np.uint64))
    write_table_parts(tmp_path / "t", [_batch(["a", "b", "c"])], **OF)
    assert open_table(tmp_path / "t").rows == 3
    with pytest.raises(InputError, match="'b' twice, in rows 1 and 3"):
        write_table_parts(tmp_path / "u", [_batch(["a", "b", "c", "b"])], **OF)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "expected at least one batch"),
        ([_batch([1, None])], "row 1 has no id"),
        ([_batch([1]), _batch([2], value=np.inf)], "row 1, id 2: the vector isn't finite"),
        ([_batch([1]), _batch(["b"])], "ids must stay int64 throughout a table; found string"),
        ([_batch([1.5])], "string or int64; found double"),
        ([_batch([1]), _batch([2], dim=4)], r"shape \(1, 3\).*found float32 of shape \(1, 4\)"),
        ([(pa.array([1]), np.ones((1, 3)))], "found float64"),
        ([(pa.array([1, 2]), np.ones((1, 3), np.float32))], r"shape \(2, 3\)"),
        ([(pa.array([1]), np.ones(3, np.float32))], r"shape \(n, D\)"),
    ],
)
def test_rows_that_break_the_layout_are_refused_whole(tmp_path, batches, message):
    with pytest.raises(InputError, match=message):
        write_table_parts(tmp_path / "t", batches, part_rows=1, **OF)
    assert list(tmp_path.iterdir()) == []


def test_a_producer_that_fails_leaves_nothing(tmp_path):
    def batches():
        yield _batch([1, 2, 3])
        raise KeyError("upstream")

    with pytest.raises(KeyError, match="upstream"):
        write_table_parts(tmp_path / "t", batches(), part_rows=1, **OF)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [Path.touch, lambda path: (path.mkdir(), (path / "x").touch())])
def test_what_is_there_is_not_overwritten(tmp_path, make):
    make(tmp_path / "t")
    with pytest.raises(InputError, match="not empty"):
        write_table_parts(tmp_path / "t", [_batch([1])], **OF)


def test_a_brought_in_table_needs_a_space_and_a_version(tmp_path):
    path = _plain(tmp_path / "shop.parquet", embedding=_vectors(2), id=pa.array([5, 6], pa.int32()))
    with pytest.raises(InputError, match="has no label of the space and version"):
        open_table(path)
    table = open_table(path, space="movies", version=1)
    assert (table.entity, table.id_type, table.dim) == ("shop", "int64", 3)
    assert table.read()[0] == pa.array([5, 6])


@pytest.mark.parametrize(
    "type_", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_strings_of_any_arrow_kind_are_ids(tmp_path, type_):
    ids = pa.array(["a", "b"]).cast(type_)
    path = _plain(tmp_path / "t.parquet", id=ids, embedding=_vectors(2))
    assert open_table(path, space="s", version=0).read()[0] == pa.array(["a", "b"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"key": [1], "embedding": _vectors(1)}, r"columns id and embedding; found \['key'"),
        ({"id": [1], "embedding": _vectors(1), "x": [1]}, "exactly the columns"),
        ({"id": [1], "embedding": pa.array([[1.0]], pa.list_(pa.float32()))}, "fixed-size list"),
        ({"id": [1], "embedding": _vectors(1, dtype=np.float64)}, "fixed-size list of float32"),
        ({"id": [1.5], "embedding": _vectors(1)}, "string or integer; found double"),
    ],
)
def test_a_table_of_another_layout_is_refused(tmp_path, columns, message):
    path = _plain(tmp_path / "t.parquet", **columns)
    with pytest.raises(InputError, match=message):
        open_table(path, space="s", version=0)


@pytest.mark.parametrize(
    "columns",
    [
        {"id": [1, None, 3], "embedding": _vectors(3)},
        {"id": [1, 2, 3], "embedding": pa.array([[1.0], None, [1.0]], pa.list_(pa.float32(), 1))},
    ],
)
def test_a_null_is_refused_with_its_row(tmp_path, columns):
    table = open_table(_plain(tmp_path / "t.parquet", **columns), space="s", version=0)
    with pytest.raises(InputError, match="row 1 has a null"):
        table.read()


def test_an_id_beyond_int64_is_refused(tmp_path):
    ids = pa.array([2**63], pa.uint64())
    table = open_table(
        _plain(tmp_path / "t.parquet", id=ids, embedding=_vectors(1)), space="s", version=0
    )
    with pytest.raises(InputError, match="doesn't fit int64"):
        table.read()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"version": 1}, "version 2; expected version 1"),
        ({"space": "books"}, "space movies; expected"),
    ],
)
def test_a_table_that_says_it_is_of_another_version_is_refused(tmp_path, given, message):
    write_table_parts(tmp_path / "t", [_batch([1])], **OF)
    with pytest.raises(InputError, match=message):
        open_table(tmp_path / "t", **given)


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    (tmp_path / "t").mkdir()
    _plain(tmp_path / "t" / "a.parquet", id=[1], embedding=_vectors(1, dim=3))
    _plain(tmp_path / "t" / "b.parquet", id=[2], embedding=_vectors(1, dim=4))
    with pytest.raises(
        InputError, match=r"b\.parquet holds int64 ids and dimension 4; the table has"
    ):
        open_table(tmp_path / "t", space="s", version=0)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no table"):
        open_table(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no table"):
        open_table(tmp_path)
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="no whole Parquet file"):
        open_table(tmp_path / "t.parquet", space="s", version=0)


def test_a_folder_that_was_never_committed_is_refused(tmp_path):
    write_table_parts(tmp_path / "t", [_batch([1, 2, 3])], part_rows=1, **OF)
    (tmp_path / "t" / COMMIT).unlink()
    with pytest.raises(InputError, match="was never committed: it lacks _table"):
        open_table(tmp_path / "t")
    assert open_table(tmp_path / "t" / "part-00000.parquet").rows == 1


def test_a_folder_is_the_parts_that_its_commit_file_lists(tmp_path):
    write_table_parts(tmp_path / "t", [_batch([1, 2, 3])], part_rows=2, **OF)
    write_table_parts(tmp_path / "u", [_batch([4])], **OF)
    stray = tmp_path / "t" / "part-00001-late.parquet"
    stray.write_bytes((tmp_path / "u" / "part-00000.parquet").read_bytes())
    assert open_table(tmp_path / "t").read()[0].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize("damage", ["lost", "short", "another"])
def test_a_part_that_is_not_the_committed_one_is_refused(tmp_path, damage):
    write_table_parts(tmp_path / "t", [_batch([1, 2, 3])], part_rows=2, **OF)
    part = tmp_path / "t" / "part-00001.parquet"
    if damage == "lost":
        part.unlink()
    elif damage == "short":
        part.write_bytes(part.read_bytes()[:-1])
    else:
        commit = tmp_path / "t" / COMMIT
        commit.write_text(commit.read_text().replace("part-00001", "../u/part-00001"))
    message = {"lost": "it is missing", "short": "must have", "another": "of its own folder"}
    with pytest.raises(CorruptError, match=message[damage]):
        open_table(tmp_path / "t")


def test_a_newer_commit_file_is_refused(tmp_path):
    write_table_parts(tmp_path / "t", [_batch([1])], **OF)
    commit = tmp_path / "t" / COMMIT
    commit.write_text(commit.read_text().replace('"format": 1', '"format": 3'))
    with pytest.raises(RegistryError, match="has format 3; this Backstay reads up to 2"):
        open_table(tmp_path / "t")


def test_of_two_writers_on_an_object_store_the_first_to_commit_has_it():
    files = open_files("memory://both/t")
    try:
        with pytest.raises(InputError, match="another writer has just committed"):
            write_table_parts("memory://both/t", second_before_its_first_part(), **OF)
        assert open_table("memory://both/t").read()[0].to_pylist() == [2]
        assert len(files.find("")) == 2  # a part, and the commit file that lists it
    finally:
        files.remove("")


def second_before_its_first_part():
    write_table_parts("memory://both/t", [_batch([2])], **OF)
    yield _batch([1])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b"backstay.space", b"\xff\xfe", "not UTF-8 or not printable"),
        (b"backstay.entity", b"\x1b[31mred", "not UTF-8 or not printable"),
        (b"backstay.version", b"two", r"labelled version .two.; expected"),
    ],
)
def test_metadata_that_is_no_text_is_refused_in_plain_letters(tmp_path, key, value, message):
    labels = {b"backstay.space": b"s", b"backstay.version": b"0", key: value}
    table = pa.table({"id": [1], "embedding": _vectors(1)}).replace_schema_metadata(labels)
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match=message) as caught:
        open_table(tmp_path / "t.parquet")
    assert str(caught.value).isprintable()


def test_float16_is_read_as_float32(tmp_path):
    schema = table_schema(3, "int64", dtype="float16", **OF)
    values = np.array([[1, 2, 3.5]], np.float16)
    pq.write_table(
        pa.Table.from_batches([record_batch(pa.array([1]), values, schema=schema)]),
        tmp_path / "t.parquet",
    )
    table = open_table(tmp_path / "t.parquet")
    assert table.dtype == "float16"
    assert table.read()[1].dtype == np.float32
    assert table.read()[1].tolist() == [[1, 2, 3.5]]


def test_a_record_batch_shares_the_vectors_memory():
    ids, values = _batch([1, 2])
    batch = record_batch(ids, values, schema=table_schema(3, "int64", **OF))
    assert np.shares_memory(batch.column("embedding").flatten().to_numpy(), values)
    sliced = batch.slice(1)
    assert sliced.column("embedding").flatten().to_numpy().shape == (3,)


def test_a_large_table_passes_through_in_little_memory(tmp_path, monkeypatch):
    rows, dim, step = 400_000, 64, 5_000  # 102 MB of vectors
    monkeypatch.setattr(table_writer, "GROUP_BYTES", 2 << 20)
    monkeypatch.setattr(table_writer, "PART_BYTES", 16 << 20)
    peak = 0

    def watch():
        nonlocal peak
        peak = max(peak, pa.total_allocated_bytes() - before)

    def batches():
        for start in range(0, rows, step):
            watch()
            values = np.full((step, dim), start, np.float32)
            yield pa.array(np.arange(start, start + step)), values

    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        write_table_parts(tmp_path / "t", batches(), **OF)
        table = open_table(tmp_path / "t")
        assert table.rows == rows
        total = 0
        for ids, values in table.batches(8192):
            watch()
            total += len(ids)
            assert values[0, 0] == ids[0].as_py() // step * step
        assert total == rows
        assert len(table.parts) == 7
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
        assert peak < 30 << 20
    finally:
        tracemalloc.stop()


def test_a_table_of_another_version_is_refused_with_the_command_that_converts_it(tmp_path):
    path = tmp_path / "items.parquet"
    labels = {
        b"backstay.space": "movies",
        b"backstay.version": "3",
        b"backstay.entity": "item",
        b"backstay.fingerprint": "a" * 16,
    }
    with pytest.raises(InputError) as caught:
        check_labels(
            labels, str(path), space="movies", version=1, entity="item", fingerprint="b" * 16
        )
    assert "a" * 16 in str(caught.value)
    assert "b" * 16 in str(caught.value)
    assert (
        f"`backstay convert --registry REGISTRY --space movies --from 3 --to 1 --input {path} "
        f"--output {tmp_path}/items-v1`"
    ) in str(caught.value)
