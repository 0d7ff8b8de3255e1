"""Amazon Reviews 2014, 2018 and 2023: JSON lines, gzipped or not, reviews and metadata.

The fields of a file's first record decide whether it holds reviews or metadata. Ids stay strings.
In 2023 an item is a `parent_asin`, and times are in milliseconds. The metadata of 2014 are Python
literals instead of JSON.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa

from backstay.datasets.reading import (
    ItemRow,
    Tables,
    expand,
    head,
    item_batches,
    plain_name,
    read_items,
)
from backstay.datasets.rows import ITEM_EMPTY, Row, RowFormat, TimeUnit, read_rows
from backstay.datasets.skipped_rows import BrokenRowError, SkippedRows
from backstay.errors import InputError
from backstay.storage.documents import JsonObject

KINDS = ("brand", "category")

_NO_JSON = "line is no JSON object"
_PROBED = 100  # first lines, in which a record must be readable


@dataclass(frozen=True)
class Reviews:
    """A parser of review lines: the fields that hold user, item, rating and time."""

    user: str
    item: str
    rating: str
    time: str
    unit: TimeUnit

    quoted = False

    @property
    def row_format(self) -> RowFormat:
        """Ratings up to 5, times in this layout's unit."""
        return RowFormat(unit=self.unit)

    def fast(self, data: bytes) -> pa.RecordBatch:
        """Parse whole lines at once."""
        try:
            records = [orjson.loads(line) for line in data.splitlines()]
            columns = [[record[name] for record in records] for name in self.names]
        except (ValueError, KeyError, TypeError) as error:
            raise pa.ArrowInvalid from error
        numbers = [
            pa.array(column, pa.float64()).to_numpy(zero_copy_only=False) for column in columns[2:]
        ]
        return self.row_format.batch(*columns[:2], *numbers)

    def row(self, line: bytes) -> Row:
        """Parse one line."""
        record = load(line)
        for name in self.names:
            if name not in record:
                raise BrokenRowError(f"no field {name}")
        return self.row_format.row(*(record[name] for name in self.names))

    @property
    def names(self) -> tuple[str, str, str, str]:
        """The fields in the order of an interaction's columns."""
        return self.user, self.item, self.rating, self.time


_2014 = Reviews("reviewerID", "asin", "overall", "unixReviewTime", "s")
_2023 = Reviews("user_id", "parent_asin", "rating", "timestamp", "ms")


def open_amazon(paths: Sequence[Path], skipped: SkippedRows) -> Tables:
    """Find reviews and metadata among files or in a folder."""
    reviews: list[tuple[Path, Reviews]] = []
    metadata: list[Path] = []
    for path in _candidates(paths):
        parser = _parser(path)
        if parser:
            reviews.append((path, parser))
        else:
            metadata.append(path)
    if not reviews:
        raise InputError(
            f"expected a file of reviews; found only metadata: {', '.join(map(str, metadata))}. "
            "Pass the reviews of the same category too."
        )
    items = item_batches(_all_items(metadata, skipped), KINDS) if metadata else item_batches((), ())
    return Tables(
        files=(*(path for path, _ in reviews), *metadata),
        interactions=(
            batch for path, parser in reviews for batch in read_rows(path, parser, skipped)
        ),
        items=items,
    )


def load(line: bytes) -> JsonObject:
    """A line's record, written as JSON or as a Python literal."""
    try:
        record = orjson.loads(line)
    except ValueError:
        try:
            record = ast.literal_eval(line.decode().strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            record = None
    if not isinstance(record, dict):
        raise BrokenRowError(_NO_JSON)
    return record


def describe(line: bytes) -> ItemRow:
    """A line of metadata: the brand, and every level of the categories once."""
    record = load(line)
    item = record.get("parent_asin") or record.get("asin")
    if not isinstance(item, str):
        raise BrokenRowError(ITEM_EMPTY)
    details = record.get("details")
    made_by = details.get("Brand") if isinstance(details, dict) else None
    brand = made_by or record.get("brand") or record.get("store")
    return item, (_texts([brand]), _texts(record.get("categories") or record.get("category")))


def _texts(values: object) -> list[str]:
    """The distinct non-empty texts in nested lists."""

    def flat(value: object) -> Iterator[str]:
        if isinstance(value, str) and value.strip():
            yield value.strip()
        elif isinstance(value, list | tuple):
            for part in value:
                yield from flat(part)

    return list(dict.fromkeys(flat(values)))


def _all_items(paths: Iterable[Path], skipped: SkippedRows) -> Iterator[ItemRow]:
    for path in paths:
        yield from read_items(path, describe, skipped)


def _candidates(paths: Sequence[Path]) -> list[Path]:
    named = {path for path in paths if not path.is_dir()}
    files = expand(paths)
    wanted = [
        path for path in files if path in named or plain_name(path).endswith((".json", ".jsonl"))
    ]
    if not wanted:
        raise InputError(
            "expected .json or .jsonl files of reviews (each gzipped or not); found "
            f"{', '.join(path.name for path in files) or 'no file'} "
            f"in {', '.join(map(str, paths))}."
        )
    return wanted


def _parser(path: Path) -> Reviews | None:
    """The parser of a file of reviews; None for metadata."""
    record: JsonObject = {}
    for line in head(path, lines=_PROBED):
        try:
            record = load(line.encode())
            break
        except BrokenRowError:
            continue
    if _2014.user in record:
        return _2014
    if _2023.user in record:
        return _2023
    if "asin" in record or "parent_asin" in record:
        return None
    found = f"the fields {', '.join(list(record)[:8])}" if record else "no JSON object"
    raise InputError(
        f"{path}, line 1: expected a review a line (a JSON object with {', '.join(_2014.names)}, "
        f"or {', '.join(_2023.names)}) or metadata (with asin or parent_asin); found {found}."
    )
