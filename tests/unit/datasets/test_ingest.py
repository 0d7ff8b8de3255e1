"""The contract of every format: what comes in, what is left out and why, what is refused."""

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.datasets import rows as rows_module
from backstay.datasets.amazon import Reviews
from backstay.datasets.columns import Columns
from backstay.datasets.dataset import Dataset
from backstay.datasets.delimited import Delimited
from backstay.datasets.ingest import FORMATS, ingest, open_tables
from backstay.datasets.skipped_rows import SkippedRows
from backstay.errors import InputError, UsageError

# user, item, rating of 5, second: two ties, and the last row is the earliest
ROWS = [(7, 1, 4.0, 50), (8, 1, 3.5, 20), (7, 2, 5.0, 50), (9, 3, 1.0, 50), (8, 2, 2.0, 10)]


@dataclass(frozen=True, kw_only=True)
class Case:
    """How one layout writes the same interactions."""

    name: str
    format: str
    file: str
    line: Callable[[object, object, object, object], str]
    metadata: tuple[str, list[str]]  # items 1 and 2; item 3 has none
    kinds: dict[str, list[list[str]]]  # expected attributes of items 2, 1, 3
    header: str = ""
    user: pa.DataType = field(default_factory=pa.string)
    item: pa.DataType = field(default_factory=pa.string)
    rating_factor: float = 1
    time_factor: int = 1
    broken: dict[str, str] = field(default_factory=dict)  # reason -> a line
    extra: dict[str, str] = field(default_factory=dict)
    columns: dict = field(default_factory=dict)

    def text(self, rows, ending="\n") -> str:
        lines = [self.good(row) for row in rows]
        return "".join(line + ending for line in ([self.header] if self.header else []) + lines)

    def good(self, row) -> str:
        user, item, rating, second = row
        return self.line(user, item, rating * self.rating_factor, second * self.time_factor)

    def write(self, folder: Path, rows=ROWS, text: str | None = None) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / self.file).write_text(
            self.text(rows) if text is None else text, encoding="utf-8", newline=""
        )
        name, lines = self.metadata
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        for name, content in self.extra.items():
            (folder / name).write_text(content, encoding="utf-8")
        return folder

    def ingest(self, folder: Path, out: Path, **options):
        return ingest([folder], format=self.format, out=out, columns=self.named(folder), **options)

    def stream(self, folder: Path) -> tuple[list[dict], dict[str, int]]:
        """The rows as they come, before any sorting, and how many were left out."""
        skipped = SkippedRows()
        tables = open_tables([folder], self.format, skipped, columns=self.named(folder))
        return [row for batch in tables.interactions for row in batch.to_pylist()], skipped.counts

    def named(self, folder: Path) -> Columns | None:
        return Columns(**self.columns, items=folder / self.metadata[0]) if self.columns else None


def delimited(name, format_, file, separator, *, integers=(), scale=5, **more) -> Case:
    def line(*values):
        return separator.join(map(str, values))

    user, item = (pa.int64() if n in integers else pa.string() for n in range(2))
    broken = {
        "wrong number of fields": line(7, 1, 3),
        "rating is no number": line(7, 1, "good", 50),
        "timestamp is no number": line(7, 1, 3, "soon"),
        "user id is empty": line("", 1, 3, 50),
        "item id is empty": line(7, "", 3, 50),
        "timestamp out of range": line(7, 1, 3, 10**40),
        f"rating outside 0…{scale}": line(7, 1, -1, 50),
    }
    if 0 in integers:
        broken["user id is no integer"] = line("seven", 1, 3, 50)
    return Case(
        name=name,
        format=format_,
        file=file,
        line=line,
        user=user,
        item=item,
        broken=broken,
        **more,
    )


def json_lines(name, fields, **more) -> Case:
    keys = fields.split()

    def line(*values):
        user, item, rating, time = values
        texts = f'"{user}"', f'"{item}"', rating, time
        pairs = ", ".join(f'"{key}": {text}' for key, text in zip(keys, texts, strict=True))
        return "{" + pairs + ', "text": "a \\"b\\" {c} \\n"}'

    return Case(
        name=name,
        format="amazon",
        file="reviews.json",
        line=line,
        broken={
            "line is no JSON object": '{"asin": "1", "overall"',
            f"no field {keys[2]}": line(7, 1, 3, 4).replace(keys[2], "score"),
            "rating is no number": line(7, 1, '"good"', 50),
            "timestamp is no number": line(7, 1, 3, "null"),
            "user id is empty": line("", 1, 3, 50),
            "item id is empty": line(7, "", 3, 50),
            "rating outside 0…5": line(7, 1, 9, 50),
        },
        **more,
    )


FILMS = {"genre": [[], ["Crime", "Drama"], []], "year": [["2001"], ["1995"], []], "title": [[]] * 3}
BRANDS = {"brand": [[], ["Korg"], []], "category": [["Pianos"], ["Music", "Pianos", "Sale"], []]}
CASES = [
    delimited(
        "movielens-100k",
        "movielens",
        "u.data",
        "\t",
        integers=(0, 1),
        metadata=("u.item", ["1|Heat (1995)|01-Jan-1995||http://x|0|1|1", "2|Ré (2001)||||1|0|0"]),
        extra={"u.genre": "unknown|0\nCrime|1\nDrama|2\n\n"},
        kinds=FILMS,
    ),
    delimited(
        "movielens-10m",
        "movielens",
        "ratings.dat",
        "::",
        integers=(0, 1),
        metadata=("movies.dat", ["1::Heat (1995)::Crime|Drama", "2::Ré (2001)::"]),
        kinds=FILMS,
    ),
    delimited(
        "movielens-25m",
        "movielens",
        "ratings.csv",
        ",",
        integers=(0, 1),
        header="userId,movieId,rating,timestamp",
        metadata=(
            "movies.csv",
            [
                "movieId,title,genres",
                '1,"Heat, ""The"" (1995)",Crime|Drama',
                "2,Ré (2001),(no genres listed)",
            ],
        ),
        kinds=FILMS,
    ),
    delimited(
        "movietweetings",
        "movietweetings",
        "ratings.dat",
        "::",
        integers=(0,),
        scale=10,
        rating_factor=2,
        metadata=("movies.dat", ["1::Heat (1995)::Crime|Drama", "2::Ré (2001)::"]),
        kinds=FILMS,
    ),
    delimited(
        "recbole",
        "recbole",
        "x.inter",
        "\t",
        header="user_id:token\titem_id:token\trating:float\ttimestamp:float",
        metadata=(
            "x.item",
            [
                "item_id:token\tprice:float\tclass:token_seq\tbrand:token",
                "1\t9.5\tCrime Drama\tMGM",
                "2\t\t\t",
            ],
        ),
        kinds={"class": [[], ["Crime", "Drama"], []], "brand": [[], ["MGM"], []]},
    ),
    delimited(
        "table",
        "table",
        "x.csv",
        ",",
        header="who,what,stars,at",
        metadata=("items.csv", ["colour,what", "red|blue,1", ",2"]),
        kinds={"hue": [[], ["red", "blue"], []]},
        columns={
            "user": "who",
            "item": "what",
            "rating": "stars",
            "time": "at",
            "attributes": (("hue", "colour"),),
        },
    ),
    json_lines(
        "amazon-2014",
        "reviewerID asin overall unixReviewTime",
        metadata=(
            "meta.json",
            [
                (
                    "{'asin': '1', 'brand': 'Korg', 'title': \"it's\", "
                    "'categories': [['Music', 'Pianos'], ['Music', 'Sale']]}"
                ),
                "{'asin': '2', 'categories': [['Pianos']]}",
            ],
        ),
        kinds=BRANDS,
    ),
    json_lines(
        "amazon-2018",
        "reviewerID asin overall unixReviewTime",
        metadata=(
            "meta.json",
            [
                '{"asin": "1", "brand": "Korg", "category": ["Music", "Pianos", "Sale"]}',
                '{"asin": "2", "brand": "", "category": ["Pianos"]}',
            ],
        ),
        kinds=BRANDS,
    ),
    json_lines(
        "amazon-2023",
        "user_id parent_asin rating timestamp",
        time_factor=1000,
        metadata=(
            "meta.jsonl",
            [
                (
                    '{"parent_asin": "1", "store": "Shop", "details": {"Brand": "Korg"}, '
                    '"categories": ["Music", "Pianos", "Sale"]}'
                ),
                '{"parent_asin": "2", "store": null, "categories": ["Pianos"]}',
            ],
        ),
        kinds=BRANDS,
    ),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_headed = pytest.mark.parametrize(
    "case", [case for case in CASES if case.header], ids=lambda case: case.name
)


def sorted_rows(case: Case, rows=ROWS):
    user, item = (int if type_ == pa.int64() else str for type_ in (case.user, case.item))
    rows = sorted(rows, key=lambda row: row[3])  # stable, as the contract says
    return [
        {"user_id": user(u), "item_id": item(i), "rating": r, "timestamp": t} for u, i, r, t in rows
    ]


def nothing_left(folder: Path) -> bool:
    return not [path for path in folder.iterdir() if path.name != "in"]


def test_every_format_is_in_the_contract():
    assert {case.format for case in CASES} == set(FORMATS)


@each_case
def test_rows_come_in_time_order_ties_in_input_order_and_ids_as_they_were(case, tmp_path):
    info = case.ingest(case.write(tmp_path / "in"), tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "interactions.parquet")
    assert table.to_pylist() == sorted_rows(case)
    assert table.schema.types == [case.user, case.item, pa.float32(), pa.int64()]
    assert info.time_span == (10, 50)
    assert info.rating_range == (1.0, 5.0)
    assert info.skipped == {}
    assert Dataset.open(tmp_path / "out").info == info
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dataset.json",
        "interactions.parquet",
        "items.parquet",
    ]


@each_case
def test_items_bring_their_attributes_and_the_ones_without_are_counted(case, tmp_path):
    info = case.ingest(case.write(tmp_path / "in"), tmp_path / "out")
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pydict()
    ids = [2, 1, 3] if case.item == pa.int64() else ["2", "1", "3"]
    assert items == {"item_id": ids, **case.kinds}
    assert info.attribute_kinds == tuple(case.kinds)
    bare = sum(not any(values) for values in zip(*case.kinds.values(), strict=True))
    assert info.counts == {
        "interactions": 5,
        "users": 3,
        "items": 3,
        "items_without_attributes": bare,
        "items_without_interactions": 0,
    }


@each_case
def test_gzip_line_ends_byte_order_mark_and_blank_lines_make_no_difference(case, tmp_path):
    expected = case.ingest(case.write(tmp_path / "in"), tmp_path / "out").fingerprint
    text = case.text(ROWS, ending="\r\n").replace("\r\n", "\r\n\r\n", 2 if case.header else 1)
    if case.header:
        text = text.replace("\r\n\r\n", "\r\n", 1)
    folder = case.write(tmp_path / "other", text="\ufeff" + text.rstrip())
    assert case.ingest(folder, tmp_path / "out2").fingerprint == expected
    for path in folder.iterdir():
        if path.name != "u.genre" and path.suffix != ".gz" and not case.columns:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    assert case.ingest(folder, tmp_path / "out3").fingerprint == expected


@each_case
def test_broken_lines_are_counted_with_their_reason(case, tmp_path, caplog):
    lines = case.text(ROWS).splitlines()
    at = 3
    lines[at:at] = case.broken.values()
    folder = case.write(tmp_path / "in", text="\n".join(lines))
    info = case.ingest(folder, tmp_path / "out")
    assert info.skipped == dict.fromkeys(case.broken, 1)
    assert pq.read_table(tmp_path / "out" / "interactions.parquet").to_pylist() == sorted_rows(case)
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    said = [text for text in said if "no categories" not in text]
    assert len(said) == 1
    for n, reason in enumerate(case.broken):
        assert f"1 × {reason} (first: {folder / case.file}, line {at + n + 1})" in said[0]


@each_case
def test_strict_refuses_each_broken_line_with_file_and_line(case, tmp_path):
    for n, (reason, line) in enumerate(case.broken.items()):
        lines = case.text(ROWS).splitlines()
        lines.insert(3, line)
        folder = case.write(tmp_path / "in", text="\n".join(lines))
        with pytest.raises(
            InputError, match=f"{re.escape(case.file)}, line 4: {reason}.*Correct it"
        ):
            case.ingest(folder, tmp_path / f"out{n}", strict=True)
    assert nothing_left(tmp_path)


@each_case
@pytest.mark.parametrize("rating", ["NaN", "Infinity", "1_0", ""])
def test_what_is_no_rating_is_no_rating(case, rating, tmp_path):
    text = case.text(ROWS) + case.line(7, 1, rating, 50) + "\n"
    rows, skipped = case.stream(case.write(tmp_path / "in", text=text))
    assert (len(rows), sum(skipped.values())) == (len(ROWS), 1)


@each_case
def test_an_empty_file_is_refused(case, tmp_path):
    with pytest.raises(InputError, match=rf"{re.escape(case.file)} is empty|no JSON object"):
        case.ingest(case.write(tmp_path / "in", text=""), tmp_path / "out")
    assert nothing_left(tmp_path)


@each_case
def test_a_file_without_one_good_row_is_refused_with_the_reason(case, tmp_path):
    reason, line = next(iter(case.broken.items()))
    lines = [case.header, line, line] if case.header else [line, line]
    with pytest.raises(InputError, match=rf"2 × {reason} \(first: .*line|found no JSON object"):
        case.ingest(case.write(tmp_path / "in", text="\n".join(lines)), tmp_path / "out")
    assert nothing_left(tmp_path)


@each_headed
def test_a_missing_column_is_refused(case, tmp_path):
    for name in case.header.replace("\t", ",").split(","):
        text = case.text(ROWS).replace(name, "other:token" if ":" in name else "other", 1)
        with pytest.raises(InputError, match=rf"{case.file}, line 1: expected .*{name[:5]}"):
            case.ingest(case.write(tmp_path / "in", text=text), tmp_path / "out")
    assert nothing_left(tmp_path)


@each_case
def test_a_truncated_archive_is_refused(case, tmp_path):
    folder = case.write(tmp_path / "in", rows=ROWS * 2000)
    path = folder / case.file
    path.write_bytes(gzip.compress(path.read_bytes())[:-20])
    with pytest.raises(InputError, match=rf"{re.escape(case.file)} breaks off.*download it again"):
        case.ingest(folder, tmp_path / "out")
    assert nothing_left(tmp_path)


@each_case
def test_bytes_that_are_no_text_are_refused_with_their_line(case, tmp_path):
    for junk, found in ((b"\xff\xfe", "UTF-8 text"), (b"a\0b", "NUL byte")):
        folder = case.write(tmp_path / "in")
        path = folder / case.file
        lines = path.read_bytes().split(b"\n")
        lines.insert(3, junk)
        path.write_bytes(b"\n".join(lines))
        with pytest.raises(InputError, match=rf"{re.escape(case.file)}, line 4: .*{found}"):
            case.ingest(folder, tmp_path / "out")
    assert nothing_left(tmp_path)


@each_case
def test_an_archive_of_another_kind_is_refused(case, tmp_path):
    folder = case.write(tmp_path / "in")
    (folder / case.file).write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(InputError, match="is a zip archive; unpack it"):
        case.ingest(folder, tmp_path / "out")


@each_case
def test_a_folder_without_the_files_is_refused_with_the_expected_and_found_names(case, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"expected .* found .*"):
        case.ingest(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="absent isn't there"):
        case.ingest(tmp_path / "absent", tmp_path / "out")
    assert nothing_left(tmp_path)


@each_case
def test_nothing_is_overwritten(case, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "keep").write_text("me")
    with pytest.raises(UsageError, match="not empty; nothing is ever overwritten"):
        case.ingest(case.write(tmp_path / "in"), tmp_path / "out")
    assert (tmp_path / "out" / "keep").read_text() == "me"


@each_case
def test_broken_metadata_is_counted_apart(case, tmp_path):
    folder = case.write(tmp_path / "in")
    with (folder / case.metadata[0]).open("a") as file:
        file.write("x\n")
    info = case.ingest(folder, tmp_path / "out")
    [(reason, rows)] = info.skipped.items()
    assert (reason.startswith("metadata: "), rows) == (True, 1)
    assert info.counts["items"] == 3


GOOD = st.tuples(
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 10).map(lambda half: half / 2),
    st.integers(0, 40),
)


@each_case
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_fast_and_slow_parsing_agree_whatever_is_broken(case, data, tmp_path_factory):
    """The slow path alone is the twin: it looks at every line by itself."""
    bad = st.sampled_from([*case.broken.values(), "", "  ", "\u2028", '"', "a\rb"])
    drawn = data.draw(st.lists(st.one_of(GOOD, GOOD, GOOD, bad), max_size=40))
    lines = [line if isinstance(line, str) else case.good(line) for line in drawn]
    good = [row for row in drawn if not isinstance(row, str)]
    folder = tmp_path_factory.mktemp("in")
    case.write(folder, text=case.text(ROWS) + "".join(line + "\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "SMALL_BLOCK", 16)  # bytes: halve down to single lines
        fast, fast_skipped = case.stream(folder)
        for parser in (Delimited, Reviews):
            patch.setattr(parser, "fast", lambda *_: pa.array(["no number"], pa.int64()))
        slow, slow_skipped = case.stream(folder)
    assert (fast, fast_skipped) == (slow, slow_skipped)
    assert sorted(fast, key=lambda row: row["timestamp"]) == sorted_rows(case, ROWS + good)


def test_options_that_do_not_go_together_are_refused(tmp_path):
    def refused(match, **options):
        options = {"format": "movielens", "out": tmp_path / "out", **options}
        with pytest.raises(UsageError, match=match):
            ingest([tmp_path], **options)

    refused("expected a format among amazon", format="netflix")
    refused("own rating scale", rating_scale=10)
    refused("own rating scale", time_unit="ms")
    refused("own columns", columns=Columns())
    refused("rating scale above 0", format="recbole", rating_scale=0)
    refused("time unit among", format="recbole", time_unit="weeks")
    with pytest.raises(UsageError, match="at least one file"):
        ingest([], format="movielens", out=tmp_path / "out")


def test_films_from_before_utf_8_keep_their_titles(tmp_path):
    case = next(case for case in CASES if case.name == "movielens-10m")
    folder = case.write(tmp_path / "in")
    (folder / "movies.dat").write_bytes(
        "".join(f"{n}::Misérables, Les (1995)::Drama\n" for n in range(1, 9)).encode("latin-1")
    )
    text = "".join(case.good((7, n, 3, n)) + "\n" for n in range(1, 7))
    (folder / "ratings.dat").write_text(text)
    case.ingest(folder, tmp_path / "out")
    titles = pq.read_table(tmp_path / "out" / "items.parquet")["title"].to_pylist()
    assert titles == [["misérables", "les"]] * 6


def test_files_may_come_without_metadata_where_a_folder_may_not(tmp_path):
    case = next(case for case in CASES if case.name == "movielens-25m")
    folder = case.write(tmp_path / "in")
    info = ingest([folder / "ratings.csv"], format="movielens", out=tmp_path / "out")
    assert (info.attribute_kinds, info.counts["items_without_attributes"]) == ((), 3)
    (folder / "movies.csv").unlink()
    with pytest.raises(InputError, match=r"ratings.csv with movies.csv .* found ratings.csv in"):
        ingest([folder], format="movielens", out=tmp_path / "other")
    amazon = next(case for case in CASES if case.format == "amazon").write(tmp_path / "a")
    with pytest.raises(InputError, match="found only metadata"):
        ingest([amazon / "meta.json"], format="amazon", out=tmp_path / "other")
