"""What only the table format can do: Parquet, times of every kind, scales, attributes in place."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backstay.datasets.columns import Columns
from backstay.datasets.ingest import ingest
from backstay.errors import InputError, UsageError

NAMES = ("user_id", "item_id", "rating", "timestamp")


def parquet(path, columns, **more):
    pq.write_table(pa.table(dict(zip(NAMES, columns, strict=True)) | more), path)
    return path


def csv(path, rows, names=NAMES, separator=","):
    lines = [separator.join(map(str, row)) for row in (names, *rows)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def read(source, out, name="interactions", **options):
    paths = source if isinstance(source, list) else [source]
    read.info = ingest(paths, format="table", out=out, **options)
    return [tuple(row.values()) for row in pq.read_table(out / f"{name}.parquet").to_pylist()]


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        (pa.array([3, 1], pa.int32()), [3, 1]),
        (pa.array([2**63 - 1, -1]), [2**63 - 1, -1]),
        (pa.array(["03", "é"]), ["03", "é"]),
        (pa.array(["03", "é"], pa.large_string()), ["03", "é"]),
        (pa.array(["03", "é"]).dictionary_encode(), ["03", "é"]),
    ],
)
def test_parquet_ids_keep_their_type(ids, kept, tmp_path):
    source = parquet(tmp_path / "x.parquet", [ids, ids, [1.0, 2.0], [7, 8]])
    assert read(source, tmp_path / "out") == [
        (kept[0], kept[0], 1.0, 7),
        (kept[1], kept[1], 2.0, 8),
    ]


@pytest.mark.parametrize("ids", [pa.array([1.0]), pa.array([1], pa.uint64()), pa.array([b"x"])])
def test_other_ids_are_refused(ids, tmp_path):
    source = parquet(tmp_path / "x.parquet", [["a"], ids, [1.0], [7]])
    with pytest.raises(InputError, match=r"x.parquet: expected ids .* column item_id, found"):
        read(source, tmp_path / "out")


NOON = datetime(2020, 5, 17, 12, 0, 5, 700_000, UTC)


@pytest.mark.parametrize(
    ("times", "second"),
    [
        (pa.array([1_589_716_805]), 1_589_716_805),
        (pa.array([1_589_716_805_700]), 1_589_716_805),
        (pa.array([1_589_716_805_700_000]), 1_589_716_805),
        (pa.array([1_589_716_805_700_000_000]), 1_589_716_805),
        (pa.array([1_589_716_805.7]), 1_589_716_805),
        (pa.array([NOON], pa.timestamp("ms", "Europe/Paris")), 1_589_716_805),
        (pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ns")), 1_589_716_805),
        (pa.array([date(2020, 5, 17)]), 1_589_673_600),
        (pa.array([datetime(1969, 12, 31, 23, 59, 59, 500_000, UTC)]), -1),
    ],
)
def test_parquet_times_of_every_kind_are_seconds(times, second, tmp_path):
    source = parquet(tmp_path / "x.parquet", [["a"], ["b"], [Decimal("4.5")], times])
    assert read(source, tmp_path / "out") == [("a", "b", 4.5, second)]


@pytest.mark.parametrize(
    ("time", "second"),
    [
        ("1589716805", 1_589_716_805),
        ("1.589716805e9", 1_589_716_805),
        ("1589716805700", 1_589_716_805),
        ("2020-05-17 12:00:05", 1_589_716_805),
        ("2020-05-17T12:00:05.7", 1_589_716_805),
        ("2020-05-17", 1_589_673_600),
        ("2020-05-17T12:00:05Z", 1_589_716_805),
        ("2020-05-17T14:00:05+02:00", 1_589_716_805),
        ("2020-05-17 07:00:05-0500", 1_589_716_805),
    ],
)
def test_text_times_of_every_kind_are_seconds(time, second, tmp_path):
    source = csv(tmp_path / "x.csv", [("a", "b", 3, time), ("c", "d", 3, "noon")])
    assert read(source, tmp_path / "out") == [("a", "b", 3.0, second)]
    assert list(read.info.skipped.values()) == [1]


def test_a_named_unit_beats_the_size(tmp_path):
    source = csv(tmp_path / "x.csv", [("a", "b", 3, 5000)])
    assert read(source, tmp_path / "out", time_unit="ms") == [("a", "b", 3.0, 5)]


def test_rows_of_parquet_are_counted_by_reason_and_refused_by_number(tmp_path):
    columns = [
        pa.array(["a", None, "", "a", "a", "a", "a", "a"]),
        pa.array([1, 1, 1, None, 1, 1, 1, 1]),
        pa.array([5.0, 1, 1, 1, None, float("nan"), -1.0, 1]),
        pa.array([9, 1, 1, 1, 1, 1, 1, None]),
    ]
    source = parquet(tmp_path / "x.parquet", columns)
    assert read(source, tmp_path / "out") == [("a", 1, 5.0, 9)]
    assert read.info.skipped == {
        "user id is empty": 2,
        "item id is empty": 1,
        "rating is no number": 2,
        "rating outside 0…5": 1,
        "timestamp is no number": 1,
    }
    with pytest.raises(InputError, match=r"x.parquet, row 2: user id is empty"):
        read(source, tmp_path / "strict", strict=True)


def test_a_rating_above_the_guessed_scale_asks_for_the_scale(tmp_path):
    text = csv(tmp_path / "x.csv", [("a", "b", 3, 1), ("a", "c", 8, 2)])
    table = parquet(tmp_path / "x.parquet", [["a", "a"], ["b", "c"], [3, 8], [1, 2]])
    for source, place in ((text, "line 3"), (table, "rows from 1 on")):
        with pytest.raises(InputError, match=rf"{place}: expected .* 5, found 8; .*--rating-scale"):
            read(source, tmp_path / "out")
        out = tmp_path / f"out{source.suffix}"
        assert read(source, out, rating_scale=10) == [("a", "b", 1.5, 1), ("a", "c", 4.0, 2)]


def test_ids_in_text_are_strings_unless_said_otherwise(tmp_path):
    source = csv(tmp_path / "x.csv", [("007", "1", 3, 1)])
    assert read(source, tmp_path / "a") == [("007", "1", 3.0, 1)]
    integers = Columns(integer_ids=True)
    assert read(source, tmp_path / "b", columns=integers) == [(7, 1, 3.0, 1)]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_separators_come_from_the_header_and_quotes_hold_anything(separator, tmp_path):
    names = ("note", *NAMES)
    rows = [(f'"one{separator} ""two""\nthree"', "a", "b", 3, 1), ('"five"', "a", "b", 4, 2)]
    source = csv(tmp_path / "x.tsv", rows, names, separator)
    assert read(source, tmp_path / "out") == [("a", "b", 3.0, 1), ("a", "b", 4.0, 2)]
    assert read.info.skipped == {}


def test_attributes_may_stand_beside_each_rating(tmp_path):
    kinds = Columns(attributes=(("genre", "genres"), ("title", "name"), ("size", "inches")))
    expected = [("b", ["x", "y"], ["the"], ["3"]), ("c", [], ["the"], [])]
    rows = [("a", "b", 3, 1, "x|y", "The B", 3), ("a", "c", 3, 2, "", "The C", "")]
    rows += [("a", "b", 3, 3, "z", "changed", 4)]
    rows += [("a", f"d{n}", 3, 4 + n, "", "the, d", "") for n in range(3)]
    source = csv(tmp_path / "x.csv", [], (*NAMES, "genres", "name", "inches"), ";")
    source = csv(source, rows, (*NAMES, "genres", "name", "inches"), ";")
    assert read(source, tmp_path / "a", "items", columns=kinds)[:2] == expected
    assert read.info.skipped == {}
    columns = list(zip(*rows, strict=True))
    table = parquet(
        tmp_path / "x.parquet",
        columns[:4],
        genres=[[part for part in text.split("|") if part] or None for text in columns[4]],
        name=columns[5],
        inches=pa.array([n or None for n in columns[6]]),
    )
    assert read(table, tmp_path / "b", "items", columns=kinds)[:2] == expected


def test_attributes_in_a_table_of_their_own(tmp_path):
    source = parquet(tmp_path / "x.parquet", [["a"], ["b"], [3], [1]])
    table = pa.table({"item_id": ["b", None, "q"], "brand": ["Korg", "x", "y"]})
    pq.write_table(table, tmp_path / "items.parquet")
    named = Columns(attributes=(("maker", "brand"),), items=tmp_path / "items.parquet")
    assert read(tmp_path, tmp_path / "o" / "out", "items", columns=named) == [("b", ["Korg"])]
    assert source.name in read.info.source["files"]
    assert read.info.skipped == {"metadata: item id is empty": 1}
    with pytest.raises(InputError, match=r"items.parquet, row 2: metadata: item id is empty"):
        read(source, tmp_path / "strict", columns=named, strict=True)


def test_tables_of_a_folder_are_read_one_after_another(tmp_path):
    (tmp_path / "in" / "year=1").mkdir(parents=True)
    csv(tmp_path / "in" / "b.csv", [("a", "b", 3, 5)])
    parquet(tmp_path / "in" / "year=1" / "part-0.parquet", [["a"], ["c"], [4.0], [5]])
    assert read(tmp_path / "in", tmp_path / "out") == [("a", "b", 3.0, 5), ("a", "c", 4.0, 5)]


def test_damaged_and_foreign_tables_are_refused(tmp_path):
    source = parquet(tmp_path / "x.parquet", [["a"], ["b"], ["3"], [1]])
    with pytest.raises(InputError, match=r"expected numbers .* column rating, found string"):
        read(source, tmp_path / "out")
    with pytest.raises(InputError, match=r"expected the columns who, .*; found user_id"):
        read(source, tmp_path / "out", columns=Columns(user="who"))
    source.write_bytes(b"PAR1 junk")
    with pytest.raises(InputError, match=r"x.parquet is no Parquet file"):
        read(source, tmp_path / "out")


def test_kinds_need_names_of_their_own(tmp_path):
    for kinds in ((("a", "x"), ("a", "y")), (("item_id", "x"),), (("", "x"),)):
        with pytest.raises(UsageError, match="different names of attribute kinds"):
            Columns(attributes=kinds)
    with pytest.raises(UsageError, match="expected attributes to read from"):
        Columns(items=tmp_path)
