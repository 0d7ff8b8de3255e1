import numpy as np
import pyarrow as pa
import pytest

from backstay.datasets.dataset import AttributeKind, Attributes, Dataset, DatasetInfo
from backstay.datasets.writer import interaction_schema, item_schema, write_dataset
from backstay.errors import InputError, UsageError

# user, item, rating, second
ROWS = [("b", 30, 4.0, 1), ("a", 10, 3.0, 2), ("b", 10, 1.0, 2), ("c", 20, 5.0, 9)]
ITEMS = [
    {"item_id": 10, "genre": ["war", "love"], "year": ["1999"]},
    {"item_id": 20, "genre": ["love", "crime"], "year": []},
]


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return make(tmp_path / "out", ITEMS)


def make(out, items) -> Dataset:
    schema = interaction_schema(item_id=pa.int64())
    columns = zip(*ROWS, strict=True)
    batch = pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )
    described = item_schema(("genre", "year"), item_id=pa.int64())
    write_dataset(
        out,
        name="tiny",
        source={"format": "test"},
        interactions=[batch],
        items=[pa.RecordBatch.from_pylist(items, described)] if items else [],
    )
    return Dataset.open(out)


def rows(kind: AttributeKind) -> list[list[str]]:
    return [
        [kind.values[n] for n in kind.rows.columns[start:end]]
        for start, end in zip(kind.rows.starts, kind.rows.starts[1:], strict=False)
    ]


def test_users_and_items_are_numbered_by_first_appearance(dataset):
    interactions = dataset.interactions()
    assert len(interactions) == 4
    assert interactions.users.tolist() == [0, 1, 0, 2]
    assert interactions.items.tolist() == [0, 1, 1, 2]
    assert interactions.user_ids.to_pylist() == ["b", "a", "c"]
    assert interactions.item_ids.to_pylist() == [30, 10, 20]
    assert interactions.item_ids.type == pa.int64()
    assert interactions.ratings.tolist() == [4.0, 3.0, 1.0, 5.0]
    assert interactions.times.tolist() == [1, 2, 2, 9]
    types = (interactions.users.dtype, interactions.ratings.dtype, interactions.times.dtype)
    assert types == (np.int32, np.float32, np.int64)


def test_attributes_follow_the_item_index_with_vocabularies_by_first_appearance(dataset):
    genre, year = dataset.attributes(dataset.interactions().item_ids).kinds
    assert (genre.name, genre.values) == ("genre", ("war", "love", "crime"))
    assert rows(genre) == [[], ["war", "love"], ["love", "crime"]]
    assert (year.values, rows(year)) == (("1999",), [[], ["1999"], []])
    assert (genre.rows.starts.dtype, genre.rows.columns.dtype) == (np.int64, np.int32)


def test_attributes_can_be_asked_for_in_any_order_and_for_unknown_items(dataset):
    genre, _ = dataset.attributes(pa.array([20, 99, 10])).kinds
    assert rows(genre) == [["love", "crime"], [], ["war", "love"]]


def test_a_vocabulary_holds_what_occurs_among_the_first_items(dataset):
    attributes = dataset.attributes(dataset.interactions().item_ids)
    assert attributes.vocabulary(items=1) == {"genre": (), "year": ()}
    assert attributes.vocabulary(items=2) == {"genre": ("war", "love"), "year": ("1999",)}
    assert attributes.vocabulary(items=3)["genre"] == ("war", "love", "crime")


def test_reindexed_rows_keep_only_values_of_the_older_vocabulary(dataset):
    attributes = dataset.attributes(dataset.interactions().item_ids)
    older = attributes.reindexed({"genre": ("crime", "war"), "brand": ("Korg",)})
    genre, brand = older.kinds
    assert (genre.values, rows(genre)) == (("crime", "war"), [[], ["war"], ["crime"]])
    assert (brand.values, rows(brand)) == (("Korg",), [[], [], []])
    none = Attributes(kinds=attributes.kinds).reindexed({"genre": ()})
    assert rows(none.kinds[0]) == [[], [], []]


def test_without_attributes_an_items_id_is_its_attribute(tmp_path):
    dataset = make(tmp_path / "out", [])
    [kind] = dataset.attributes(dataset.interactions().item_ids).kinds
    assert (kind.name, rows(kind)) == ("item", [["30"], ["10"], ["20"]])
    assert Attributes((kind,)).vocabulary(items=2) == {"item": ("30", "10")}


def test_items_can_be_known_by_their_ids_beside_their_attributes(dataset):
    attributes = dataset.attributes(pa.array([30, 10, 20]))
    known = attributes.with_ids()
    assert [kind.name for kind in known.kinds] == ["genre", "year", "item"]
    assert rows(known.kinds[-1]) == [["30"], ["10"], ["20"]]
    assert known.kinds[:2] == attributes.kinds
    assert known.with_ids() is known


def test_a_vocabulary_with_ids_finds_the_items_wherever_they_stand(dataset):
    vocabulary = dataset.attributes(pa.array([30, 10, 20])).with_ids().vocabulary(items=2)
    assert vocabulary["item"] == ("30", "10")  # 20 is new
    later = dataset.attributes(pa.array([20, 10, 40, 30])).reindexed(vocabulary)
    assert rows(later.kinds[-1]) == [[], ["10"], [], ["30"]]
    assert later.kinds[-1].values == ("30", "10")


def test_without_attributes_the_ids_are_there_already(tmp_path):
    attributes = make(tmp_path / "out", []).attributes(pa.array([30, 10]))
    assert attributes.with_ids() is attributes


def test_attributes_without_item_ids_are_refused_where_ids_are_needed(dataset):
    nameless = Attributes(dataset.attributes(pa.array([30])).kinds)
    with pytest.raises(UsageError, match="expected attributes with their items' ids"):
        nameless.with_ids()
    with pytest.raises(UsageError, match="pass item_ids"):
        nameless.reindexed({"item": ("30",)})


def test_info_survives_its_json(dataset):
    assert DatasetInfo.from_json(dataset.info.to_json()) == dataset.info
    assert dataset.info.time_span == (1, 9)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"name": "x"}', '{"time_span": 1}'])
def test_a_damaged_description_is_refused(dataset, text):
    (dataset.path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=r"can't be read .* write it again"):
        Dataset.open(dataset.path)


def test_what_is_no_dataset_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected dataset.json in it\. Make one with"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("interactions.parquet", lambda dataset: dataset.interactions()),
        ("items.parquet", lambda dataset: dataset.attributes(pa.array([10]))),
    ],
)
def test_a_missing_or_damaged_table_is_refused(dataset, name, read):
    (dataset.path / name).write_bytes(b"junk")
    with pytest.raises(InputError, match=f"{name} is missing or damaged"):
        read(dataset)
    (dataset.path / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing or damaged"):
        read(dataset)
