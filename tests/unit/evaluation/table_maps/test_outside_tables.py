import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backstay.errors import InputError
from backstay.evaluation.table_maps import outside_tables
from backstay.evaluation.table_maps.outside_tables import open_outside_table, open_outside_tables


@pytest.fixture
def vectors():
    return np.random.default_rng(1).standard_normal((250, 6)).astype(np.float32)


def gathered(table, rows, tmp_path):
    """The vectors of some rows, in the order of their keys, and the rows in that order."""
    keys = all_keys(table)
    rows = np.asarray(rows)[np.argsort(keys[rows])]
    return table.gather(keys[rows], tmp_path / "sample.npy"), rows


def all_keys(table):
    return table.keys.read(0, table.keys.rows)


@pytest.fixture
def small_batches(monkeypatch):
    """A table of six dimensions is read 37 rows at a time."""
    monkeypatch.setattr(outside_tables, "BATCH_BYTES", 8 * 6 * 37)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("kind", ["fixed", pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("text", [True, False])
def test_a_sample_of_any_floats_comes_in_the_order_of_its_keys(save, tmp_path, vectors, kind, text):
    ids = np.arange(250) * 3 - 5
    table = open_outside_table(
        save("a.parquet", ids.astype(str) if text else ids, vectors, kind=kind)
    )
    assert (table.name, table.dim, table.keys.rows) == ("a", 6, 250)
    assert table.id_type == ("string" if text else "int64")
    found, rows = gathered(table, [249, 0, 17, 100, 36, 37], tmp_path)
    assert found.dtype == np.float32
    assert isinstance(found, np.memmap)
    np.testing.assert_allclose(found, vectors[rows], rtol=1e-3, atol=1e-3)


def test_a_folder_of_parts_is_one_table(save, tmp_path, vectors):
    for part in range(3):
        rows = slice(100 * part, 100 * (part + 1))
        save(f"t/part-{part}.parquet", np.arange(250)[rows], vectors[rows])
    (tmp_path / "t" / "_SUCCESS").write_text("")
    table = open_outside_table(tmp_path / "t")
    assert (table.name, table.keys.rows) == ("t", 250)
    found, rows = gathered(table, [240, 3, 150], tmp_path)
    np.testing.assert_array_equal(found, vectors[rows])


def test_an_id_has_one_key_whatever_holds_it(save, vectors):
    ids = pa.array([f"é{n}" for n in range(250)])
    plain, *others = (
        all_keys(open_outside_table(save(f"{n}.parquet", column, vectors)))
        for n, column in enumerate([ids, ids.cast(pa.large_string()), ids.dictionary_encode()])
    )
    for other in others:
        np.testing.assert_array_equal(plain, other)
    assert len(np.unique(plain)) == 250
    narrow, wide = (
        all_keys(open_outside_table(save(f"n{t}.parquet", pa.array(range(250), t), vectors)))
        for t in (pa.int16(), pa.uint64())
    )
    np.testing.assert_array_equal(narrow, wide)


def broken(tmp_path, columns):
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns), path)
    return path


LISTS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"name": ["a"], "embedding": [[1.0]]}, "has no column id; found name, embedding"),
        ({"id": ["a"], "vector": [[1.0]]}, "has no column embedding; found id, vector"),
        ({"key": ["a"], "vector": [[1.0]]}, "no column embedding and no column id"),
        ({"id": [1.5], "embedding": [[1.0]]}, "string or integer; found double"),
        ({"id": ["a"], "embedding": [1.0]}, "a list of floats, fixed-size or not; found double"),
        ({"id": ["a"], "embedding": [[1]]}, "a list of floats, fixed-size or not; found list"),
        ({"id": ["a", None, "c"], "embedding": LISTS}, "without an id"),
        ({"id": ["a", "b", "a"], "embedding": LISTS}, "id 'a' twice, in rows 0 and 2"),
        ({"id": [7, 7, 8], "embedding": LISTS}, "id 7 twice, in rows 0 and 1"),
        ({"id": ["a"], "embedding": pa.array([[]], pa.list_(pa.float32()))}, "row 0 has no vector"),
        (
            {"id": pa.array([], pa.string()), "embedding": pa.array([], pa.list_(pa.float32()))},
            "has no rows",
        ),
        ({"id": pa.array([2**63], pa.uint64()), "embedding": [[1.0]]}, "doesn't fit 64 bits"),
    ],
)
def test_a_table_that_breaks_the_format_is_refused(tmp_path, columns, words):
    with pytest.raises(InputError, match=re.escape(words)):
        open_outside_table(broken(tmp_path, columns))


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ([[1.0, 2.0], [3.0]], "row 1, id 'b': expected 2 dimensions as in the first row, found 1"),
        (
            [[1.0, 2.0], None],
            "row 1, id 'b': expected 2 dimensions as in the first row, found null",
        ),
        ([[1.0, 2.0], [3.0, np.nan]], "row 1, id 'b': the vector isn't finite"),
        ([[1.0, 2.0], [3.0, None]], "row 1, id 'b': the vector isn't finite"),
        ([[1.0, 2.0], [3.0, -np.inf]], "row 1, id 'b': the vector isn't finite"),
        ([[1.0, 2.0], [3.0, 1e300]], "row 1, id 'b': the vector isn't finite"),
    ],
)
def test_a_bad_vector_is_named_even_where_it_isn_t_sampled(tmp_path, vectors, words):
    table = open_outside_table(broken(tmp_path, {"id": ["a", "b"], "embedding": vectors}))
    with pytest.raises(InputError, match=re.escape(words)):
        table.gather(table.keys.read(0, 1), tmp_path / "sample.npy")


def test_what_is_no_table_is_refused(save, tmp_path, vectors):
    with pytest.raises(InputError, match="nowhere is not there"):
        open_outside_table(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \*\.parquet files"):
        open_outside_table(tmp_path / "empty")
    (tmp_path / "text.parquet").write_text("id,embedding")
    with pytest.raises(InputError, match="no whole Parquet file"):
        open_outside_table(tmp_path / "text.parquet")
    save("mixed/1.parquet", np.arange(250), vectors)
    save("mixed/2.parquet", np.arange(250) + 250, vectors[:, :4])
    with pytest.raises(InputError, match="4 dimensions; the parts before it hold int64 and 6"):
        open_outside_table(tmp_path / "mixed")


def test_tables_that_can_t_be_joined_or_stand_in_another_order_are_refused(save, vectors):
    numbers = save("numbers.parquet", np.arange(250), vectors)
    texts = save("texts.parquet", np.arange(250).astype(str), vectors)
    with pytest.raises(InputError, match=r"string ids and .* int64 ids"):
        open_outside_tables([numbers, texts])
    said = [
        save(f"v{n}.parquet", np.arange(250), vectors, metadata={"backstay.version": str(n)})
        for n in (9, 10)
    ]
    assert len(open_outside_tables([*said, numbers])) == 3
    with pytest.raises(InputError, match=r"oldest first; .* versions 10, 9"):
        open_outside_tables(said[::-1])
