"""Reads any table, Parquet or delimited text, whose columns the user names.

Parquet ids keep their type: strings or integers. Ids in text are strings, or integers with
`integer_ids`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from backstay.datasets import parquet
from backstay.datasets.delimited import Delimited, TimeForm, split
from backstay.datasets.reading import ItemRow, Tables, head, item_batches, plain_name, read_items
from backstay.datasets.rows import (
    FIELDS,
    NO_TIME,
    Cell,
    RowFormat,
    TimeUnit,
    integer,
    moment,
    number,
    read_rows,
)
from backstay.datasets.skipped_rows import BrokenRowError, SkippedRows
from backstay.datasets.titles import WORD_ITEMS, is_title, words
from backstay.datasets.writer import interaction_schema
from backstay.errors import InputError, UsageError

_SUFFIXES = (".parquet", ".csv", ".tsv")
_SEPARATORS = (",", "\t", ";", "|")
_PROBED = 100  # first lines, in which a time must be readable


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of a table's columns."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str = "rating"
    time: str = "timestamp"  # numbers, timestamps, dates or ISO 8601 text (UTC without a zone)
    attributes: tuple[tuple[str, str], ...] = ()  # (kind, column); text is split at each "|"
    items: Path | None = None  # the table of the attributes; None: the ratings' own
    integer_ids: bool = False  # ids in text are integers rather than strings

    def __post_init__(self) -> None:
        kinds = [kind for kind, _ in self.attributes]
        if len({*kinds, "item_id"}) <= len(kinds) or "" in kinds:
            raise UsageError(
                f"expected different names of attribute kinds, not empty or item_id; found {kinds}."
            )
        if self.items and not kinds:
            raise UsageError(f"expected attributes to read from {self.items}, found none named.")

    @property
    def wanted(self) -> tuple[str, str, str, str]:
        """The columns of user, item, rating and time."""
        return self.user, self.item, self.rating, self.time


def open_table(
    paths: Sequence[Path],
    skipped: SkippedRows,
    *,
    columns: Columns,
    rating_scale: float | None = None,
    time_unit: TimeUnit = "auto",
) -> Tables:
    """Find Parquet, CSV or TSV files (text gzipped or not), also anywhere below folders.

    For `rating_scale` and `time_unit` see `ingest`.
    """
    described_in = [columns.items] if columns.items else []
    files = [path for path in _tables(paths) if path not in described_in]
    if not files:
        raise InputError(f"expected a table of interactions beside {columns.items}, found none.")
    row_format = RowFormat(
        scale=rating_scale or 5.0, refuse_above=rating_scale is None, unit=time_unit
    )
    readers = [_interactions(path, columns, row_format, skipped) for path in files]
    kinds = tuple(kind for kind, _ in columns.attributes)
    sources = (described_in or files) if kinds else []
    rows = (row for path in sources for row in _items(path, columns, skipped))
    return Tables(
        files=(*files, *described_in),
        interactions=(batch for _, batches in readers for batch in batches),
        items=item_batches(
            rows if described_in else _distinct(rows),
            kinds,
            item_id=readers[0][0].field("item_id").type,
        ),
        min_items={kind: WORD_ITEMS for kind in kinds if is_title(kind)},
    )


def _tables(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} isn't there; expected a file or a folder of files.")
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        files += [file for file in below if plain_name(file).endswith(_SUFFIXES)]
    if not files:
        raise InputError(
            f"expected files that end in {', '.join(_SUFFIXES)} (text also with .gz); "
            f"found none in {', '.join(map(str, paths))}."
        )
    return files


def _interactions(
    path: Path, columns: Columns, row_format: RowFormat, skipped: SkippedRows
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema and the stream of one table of interactions."""
    if path.suffix == ".parquet":
        types = parquet.id_types(path, columns.wanted)
        row_format = replace(row_format, schema=interaction_schema(**types))
        return row_format.schema, parquet.read_interactions(
            path, columns.wanted, row_format, skipped
        )
    ids = pa.int64() if columns.integer_ids else pa.string()
    row_format = replace(row_format, schema=interaction_schema(user_id=ids, item_id=ids))
    separator, places, width = _header(path, columns.wanted)
    times = _time_form(path, separator, places[3])
    parser = Delimited(
        separator=separator,
        width=width,
        places=(places[0], places[1], places[2], places[3]),
        quoted=True,
        times=times,
        row_format=row_format if times == "number" else replace(row_format, unit="s"),
    )
    return row_format.schema, read_rows(path, parser, skipped, skip_lines=1)


def _items(path: Path, columns: Columns, skipped: SkippedRows) -> Iterator[ItemRow]:
    """The attributes of the items of one table, row by row."""
    names = (columns.item, *(column for _, column in columns.attributes))
    describe = partial(_describe, kinds=[kind for kind, _ in columns.attributes])
    if path.suffix == ".parquet":
        yield from parquet.read_items(path, names, describe, skipped)
        return
    separator, places, width = _header(path, names)

    def parse(line: bytes) -> ItemRow:
        fields = split(line, separator, quoted=True)
        if len(fields) != width:
            raise BrokenRowError(FIELDS)
        item, *values = (fields[place] for place in places)
        return describe(integer(item, "item id") if columns.integer_ids else item, values)

    yield from read_items(path, parse, skipped, skip_lines=1, quoted=True)


def _describe(item: Cell, values: Sequence[Cell], *, kinds: Sequence[str]) -> ItemRow:
    if item is None or item == "":
        raise BrokenRowError("item id is empty")
    return item, [_values(value, kind) for value, kind in zip(values, kinds, strict=True)]


def _values(value: Cell, kind: str) -> list[str]:
    """The attribute values in a cell: items of a list, text between bars, or words of a title."""
    if value is None:
        return []
    if isinstance(value, str):
        value = words(value) if is_title(kind) else value.split("|")
    parts = value if isinstance(value, list) else [value]
    texts = (str(part).strip() for part in parts if part is not None)
    return [text for text in dict.fromkeys(texts) if text]


def _distinct(rows: Iterable[ItemRow]) -> Iterator[ItemRow]:
    """The first row of each item: a table of ratings repeats the item's attributes."""
    seen: set[str | int] = set()
    for row in rows:
        if row[0] not in seen:
            seen.add(row[0])
            yield row


def _header(path: Path, wanted: Sequence[str]) -> tuple[str, list[int], int]:
    """A text table's separator, the positions of the wanted columns, and its number of columns."""
    first = head(path)[0]
    for separator in _SEPARATORS:
        names = [name.strip() for name in split(first.encode(), separator, quoted=True)]
        if all(name in names for name in wanted):
            return separator, [names.index(name) for name in wanted], len(names)
    raise InputError(
        f"{path}, line 1: expected a header with the columns {', '.join(wanted)}; "
        f"found {first[:120]!r}. Name the columns with --user, --item, --rating and --time."
    )


def _time_form(path: Path, separator: str, place: int) -> TimeForm:
    """The form of a text table's times, recognised by the first one that is readable."""
    forms: Mapping[TimeForm, Callable[[str], object]] = {
        "number": lambda text: number(text, NO_TIME),
        "local": moment,
    }
    for line in head(path, lines=_PROBED)[1:]:
        for form, read in forms.items():
            try:
                text = split(line.encode(), separator, quoted=True)[place]
                read(text)
            except (BrokenRowError, IndexError):
                continue
            zoned = form == "local" and text.strip()[10:].rstrip("Zz0123456789:").endswith(
                ("+", "-")
            )
            return "zoned" if zoned or text.strip()[-1] in "Zz" else form
    return "number"
