"""Any table, Parquet or delimited text, by naming its columns.

Parquet ids keep their type: strings or integers. Text has no types, so its ids are strings unless
said to be integers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from backstay.datasets import parquet
from backstay.datasets.delimited import Delimited, TimeForm, split
from backstay.datasets.reading import ItemRow, Tables, head, item_batches, plain_name, read_items
from backstay.datasets.rows import (
    FIELDS,
    NO_TIME,
    Meaning,
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
_PROBED = 100  # lines in which the first readable time has to come


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of a table is what."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str = "rating"
    time: str = "timestamp"  # numbers, timestamps, dates or ISO 8601 text (UTC without a zone)
    attributes: tuple[tuple[str, str], ...] = ()  # (kind, column); text is split at each "|"
    items: Path | None = None  # the table of the attributes; None: they stand beside each rating
    integer_ids: bool = False  # ids in text are integers rather than strings

    def __post_init__(self) -> None:
        kinds = [kind for kind, _ in self.attributes]
        if len({*kinds, "item_id"}) <= len(kinds) or "" in kinds:
            raise UsageError(f"expected attribute kinds with names of their own, found {kinds}.")
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
    """Find tables among files or anywhere below folders.

    Args:
        paths: Parquet, CSV or TSV files (text gzipped or not), or folders of them.
        skipped: Where broken rows go.
        columns: Which column is what.
        rating_scale: The greatest rating possible; 5 if left out, and more is then refused.
        time_unit: Of timestamps that are numbers.
    """
    described_in = [columns.items] if columns.items else []
    files = [path for path in _tables(paths) if path not in described_in]
    if not files:
        raise InputError(f"expected a table of interactions beside {columns.items}, found none.")
    meaning = Meaning(scale=rating_scale or 5.0, refuse_above=rating_scale is None, unit=time_unit)
    readers = [_interactions(path, columns, meaning, skipped) for path in files]
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
    path: Path, columns: Columns, meaning: Meaning, skipped: SkippedRows
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema and the stream of one table of interactions."""
    if path.suffix == ".parquet":
        types = parquet.id_types(path, columns.wanted)
        meaning = replace(meaning, schema=interaction_schema(**types))
        return meaning.schema, parquet.read_interactions(path, columns.wanted, meaning, skipped)
    ids = pa.int64() if columns.integer_ids else pa.string()
    meaning = replace(meaning, schema=interaction_schema(user_id=ids, item_id=ids))
    separator, places, width = _header(path, columns.wanted)
    times = _time_form(path, separator, places[3])
    parser = Delimited(
        separator=separator,
        width=width,
        places=(places[0], places[1], places[2], places[3]),
        quoted=True,
        times=times,
        meaning=meaning if times == "number" else replace(meaning, unit="s"),
    )
    return meaning.schema, read_rows(path, parser, skipped, skip_lines=1)


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


def _describe(item: Any, values: Sequence[Any], *, kinds: Sequence[str]) -> ItemRow:
    if item is None or item == "":
        raise BrokenRowError("item id is empty")
    return item, [_values(value, kind) for value, kind in zip(values, kinds, strict=True)]


def _values(value: Any, kind: str) -> list[str]:
    """The attribute values in a cell: a list's, a text's between bars, or a title's words."""
    if value is None:
        return []
    if isinstance(value, str):
        value = words(value) if is_title(kind) else value.split("|")
    parts = value if isinstance(value, list) else [value]
    texts = (str(part).strip() for part in parts if part is not None)
    return [text for text in dict.fromkeys(texts) if text]


def _distinct(rows: Iterable[ItemRow]) -> Iterator[ItemRow]:
    """The first row of each item, where it stands beside every rating of the item."""
    seen: set[str | int] = set()
    for row in rows:
        if row[0] not in seen:
            seen.add(row[0])
            yield row


def _header(path: Path, wanted: Sequence[str]) -> tuple[str, list[int], int]:
    """The separator of a text table, the places of the wanted columns, and how many it has."""
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
    """How a text table writes its times, told by the first one that can be read."""
    forms: Mapping[TimeForm, Callable[[str], Any]] = {
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
