"""Read a public format into a dataset folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa

from backstay.datasets.amazon import open_amazon
from backstay.datasets.columns import Columns, open_table
from backstay.datasets.dataset import DatasetInfo
from backstay.datasets.movielens import open_movielens
from backstay.datasets.movietweetings import open_movietweetings
from backstay.datasets.reading import Tables
from backstay.datasets.recbole import open_recbole
from backstay.datasets.rows import TimeUnit
from backstay.datasets.skipped_rows import SkippedRows, logger
from backstay.datasets.writer import check_target, write_dataset
from backstay.errors import InputError, UsageError

Format = Literal["amazon", "movielens", "movietweetings", "recbole", "table"]
FORMATS: tuple[Format, ...] = get_args(Format)

_SCALED = ("recbole", "table")
"""Formats that define neither the scale of ratings nor the unit of times."""


def ingest(
    paths: Sequence[Path],
    *,
    format: Format,  # noqa: A002 - the word of the command line
    out: Path,
    name: str | None = None,
    strict: bool = False,
    columns: Columns | None = None,
    rating_scale: float | None = None,
    time_unit: TimeUnit = "auto",
    memory_limit: str = "1GB",
) -> DatasetInfo:
    """Read files of a public format into the dataset folder `out`, in bounded memory.

    A row that can't be read is left out and counted under its reason (`skipped` of the result). A
    file that can't be read raises InputError with the line, and nothing is written.

    Args:
        paths: Files, or the folder that holds them.
        format: The format of the files.
        out: A new or empty folder.
        name: Name of the dataset in reports; by default that of the folder.
        strict: Raise InputError at the first row that can't be read.
        columns: The names of the columns (table only).
        rating_scale: The greatest possible rating (recbole and table only), brought to a scale of
            5. By default 5, and a greater rating is refused.
        time_unit: Unit of numeric timestamps (recbole and table only). "auto": by size, below 1e11
            seconds, below 1e14 milliseconds, and so on.
        memory_limit: Memory for sorting, such as "1GB"; beyond it, sorting spills to disk.
    """
    paths, out = [Path(path) for path in paths], Path(out)
    _check(paths, format, columns, rating_scale, time_unit)
    check_target(out)
    skipped = SkippedRows(strict=strict)
    tables = open_tables(
        paths,
        format,
        skipped,
        columns=columns,
        rating_scale=rating_scale,
        time_unit=time_unit,
    )
    options = {
        "strict": strict,
        "rating_scale": rating_scale,
        "time_unit": None if time_unit == "auto" else time_unit,
        "columns": columns
        and {
            **vars(columns),
            "attributes": dict(columns.attributes),
            "items": columns.items and columns.items.name,
        },
    }
    info = write_dataset(
        out,
        name=name or out.resolve().name,
        source={
            "format": format,
            "files": [path.name for path in tables.files],
            "options": {key: value for key, value in options.items() if value not in (None, False)},
        },
        interactions=_some(tables, skipped),
        items=tables.items,
        skipped=skipped.counts,
        min_items=tables.min_items,
        memory_limit=memory_limit,
    )
    if skipped.counts:
        logger.warning("left out %s", skipped.summary())
    return info


def _check(
    paths: Sequence[Path],
    format_: str,
    columns: Columns | None,
    rating_scale: float | None,
    time_unit: str,
) -> None:
    if format_ not in FORMATS:
        raise UsageError(f"expected a format among {', '.join(FORMATS)}, found {format_!r}.")
    if not paths:
        raise UsageError("expected at least one file or folder to read.")
    if time_unit not in get_args(TimeUnit):
        raise UsageError(
            f"expected a time unit among {', '.join(get_args(TimeUnit))}, found {time_unit!r}."
        )
    if rating_scale is not None and not rating_scale > 0:
        raise UsageError(f"expected a rating scale above 0, found {rating_scale}.")
    if format_ not in _SCALED and (rating_scale is not None or time_unit != "auto"):
        raise UsageError(
            f"{format_} has its own rating scale and time unit; leave out --rating-scale and "
            "--time-unit."
        )
    if format_ != "table" and columns is not None:
        raise UsageError(f"{format_} has its own columns; name columns with the table format only.")


def open_tables(
    paths: Sequence[Path],
    format_: Format,
    skipped: SkippedRows,
    *,
    columns: Columns | None = None,
    rating_scale: float | None = None,
    time_unit: TimeUnit = "auto",
) -> Tables:
    """The tables of a format; only headers are read yet. Options as in `ingest`."""
    match format_:
        case "amazon":
            return open_amazon(paths, skipped)
        case "movielens":
            return open_movielens(paths, skipped)
        case "movietweetings":
            return open_movietweetings(paths, skipped)
        case "recbole":
            return open_recbole(paths, skipped, rating_scale=rating_scale, time_unit=time_unit)
        case "table":
            return open_table(
                paths,
                skipped,
                columns=columns or Columns(),
                rating_scale=rating_scale,
                time_unit=time_unit,
            )


def _some(tables: Tables, skipped: SkippedRows) -> Iterator[pa.RecordBatch]:
    """The interactions; InputError if there are none."""
    rows = 0
    for batch in tables.interactions:
        rows += batch.num_rows
        yield batch
    if not rows:
        why = skipped.summary() or "there are no rows in it"
        names = ", ".join(str(path) for path in tables.files)
        raise InputError(
            f"no interaction can be read from {names}: {why}. Is --format the right one?"
        )
