"""RecBole atomic files: `.inter` and `.item`, tab-separated under a header of typed fields.

Ids are `token` fields and stay strings. Attributes are the `token` and `token_seq` fields of
`.item`; `float` fields are quantities and left out. A field with `title` in its name has the words
of the title as values.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from backstay.datasets.delimited import Delimited
from backstay.datasets.reading import (
    ItemRow,
    Tables,
    expand,
    head,
    item_batches,
    plain_name,
    read_items,
)
from backstay.datasets.rows import FIELDS, ITEM_EMPTY, RowFormat, TimeUnit, read_rows
from backstay.datasets.skipped_rows import BrokenRowError, SkippedRows, logger
from backstay.datasets.titles import WORD_ITEMS, is_title, words
from backstay.errors import InputError

_FIELDS = ("user_id", "item_id", "rating", "timestamp")
_TYPES = ("token", "token_seq", "float", "float_seq")


def open_recbole(
    paths: Sequence[Path],
    skipped: SkippedRows,
    *,
    rating_scale: float | None = None,
    time_unit: TimeUnit = "auto",
) -> Tables:
    """Find `.inter` files and at most one `.item` file, among files or in a folder.

    For `rating_scale` and `time_unit` see `ingest`.
    """
    files = expand(paths)
    inter = [path for path in files if plain_name(path).endswith(".inter")]
    item = [path for path in files if plain_name(path).endswith(".item")]
    if not inter or len(item) > 1:
        raise InputError(
            "expected RecBole's .inter files and at most one .item file (each gzipped or not); "
            f"found {', '.join(path.name for path in files) or 'no file'} "
            f"in {', '.join(map(str, paths))}."
        )
    row_format = RowFormat(
        scale=rating_scale or 5.0, refuse_above=rating_scale is None, unit=time_unit
    )
    parsers = [_parser(path, row_format) for path in inter]
    kinds, items = _items(item[0], skipped) if item else ((), item_batches((), ()))
    return Tables(
        files=(*inter, *item),
        interactions=(
            batch
            for path, parser in zip(inter, parsers, strict=True)
            for batch in read_rows(path, parser, skipped, skip_lines=1)
        ),
        items=items,
        min_items={kind: WORD_ITEMS for kind in kinds if is_title(kind)},
    )


def _parser(path: Path, row_format: RowFormat) -> Delimited:
    header = _header(path, _FIELDS)
    names = list(header)
    user, item, rating, time = (names.index(name) for name in _FIELDS)
    return Delimited(
        separator="\t", width=len(names), places=(user, item, rating, time), row_format=row_format
    )


def _items(path: Path, skipped: SkippedRows) -> tuple[tuple[str, ...], Iterator[pa.RecordBatch]]:
    header = _header(path, ("item_id",))
    kinds = tuple(
        name for name, type_ in header.items() if name != "item_id" and type_ in _TYPES[:2]
    )
    left_out = [name for name in header if name not in ("item_id", *kinds)]
    if left_out:
        logger.info("%s: left out %s, which are no categories", path, ", ".join(left_out))
    rows = read_items(path, partial(_item, header=header, kinds=kinds), skipped, skip_lines=1)
    return kinds, item_batches(rows, kinds)


def _item(line: bytes, *, header: Mapping[str, str], kinds: Sequence[str]) -> ItemRow:
    fields = line.decode().split("\t")
    if len(fields) != len(header):
        raise BrokenRowError(FIELDS)
    row = dict(zip(header, fields, strict=True))
    if not row["item_id"]:
        raise BrokenRowError(ITEM_EMPTY)
    return row["item_id"], [_values(row[kind], kind, header[kind]) for kind in kinds]


def _values(text: str, kind: str, type_: str) -> list[str]:
    if is_title(kind):
        return words(text)
    parts = text.split(" ") if type_ == "token_seq" else [text]
    return [part for part in dict.fromkeys(part.strip() for part in parts) if part]


def _header(path: Path, required: Sequence[str]) -> dict[str, str]:
    """Field -> type, in the order of the file."""
    first = head(path)[0]
    fields = [field.partition(":")[::2] for field in first.rstrip("\r").split("\t")]
    header = {name: type_.strip() for name, type_ in fields}
    typed = all(type_ in _TYPES for type_ in header.values()) and len(header) == len(fields)
    if not typed or any(name not in header for name in required):
        raise InputError(
            f"{path}, line 1: expected a header of tab-separated typed fields (name:type) with "
            f"{', '.join(required)}; found {first[:120]!r}. Rename the fields, "
            "or read the file with --format table."
        )
    return header
