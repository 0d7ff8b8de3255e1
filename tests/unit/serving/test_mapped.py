import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.copies import cached, check_finds, fake

INT64 = st.integers(-(2**63), 2**63 - 1)
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


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


@pytest.mark.parametrize("id_type", ["int64", "string"])
def test_an_open_table_holds_nothing_that_grows_with_it(tmp_path, id_type):
    ids = range(50_000)
    table = fake(list(ids) if id_type == "int64" else [str(n) for n in ids], id_type=id_type)
    table.batches = lambda: [(table.ids, table.values)]
    cached(table, tmp_path)
    before = pa.total_allocated_bytes()
    opened = cached(table, tmp_path)
    assert pa.total_allocated_bytes() - before < 10_000
    assert isinstance(opened.vectors, np.memmap)
    assert not opened.rows.flags.owndata


def test_vectors_are_mapped_and_read_only(tmp_path):
    opened = cached(fake([1, 2]), tmp_path)
    assert isinstance(opened.vectors, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        opened.vectors[0, 0] = 1
