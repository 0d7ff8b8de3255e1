"""Write a dataset folder from streams of any size, whole or not at all.

The rows go to disk as they come; DuckDB then sorts them within a memory limit, spilling to disk.
Everything happens in a hidden sibling of the target, which becomes the target by one rename.
"""

import glob
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from backstay.datasets.dataset import INFO_FILE, INTERACTIONS_FILE, ITEMS_FILE, DatasetInfo
from backstay.datasets.fingerprint import Fingerprint
from backstay.errors import BackstayError, InputError, UsageError
from backstay.storage.folders import new_folder

logger = logging.getLogger("backstay.datasets")

STRINGS = pa.list_(pa.string())
"""The type of an attribute kind's column."""

REPEATED_ITEM = "metadata: item described before"

_ID_TYPES = (pa.string(), pa.int64())
_ROW_GROUP = 1 << 18  # rows; 10 MB or so of interactions are in memory at a time
_BATCH = 1 << 16


def interaction_schema(
    *, user_id: pa.DataType | None = None, item_id: pa.DataType | None = None
) -> pa.Schema:
    """The columns of interactions.parquet; ids are strings unless given as `pa.int64()`."""
    return pa.schema(
        [
            ("user_id", user_id or pa.string()),
            ("item_id", item_id or pa.string()),
            ("rating", pa.float32()),
            ("timestamp", pa.int64()),
        ]
    )


def item_schema(kinds: Iterable[str], *, item_id: pa.DataType | None = None) -> pa.Schema:
    """The columns of items.parquet for these attribute kinds."""
    return pa.schema([("item_id", item_id or pa.string()), *((kind, STRINGS) for kind in kinds)])


def write_dataset(
    out: Path,
    *,
    name: str,
    source: dict[str, Any],
    interactions: Iterable[pa.RecordBatch],
    items: Iterable[pa.RecordBatch],
    skipped: Mapping[str, int] | None = None,
    presorted: bool = False,
    min_items: Mapping[str, int] | None = None,
    memory_limit: str = "1GB",
) -> DatasetInfo:
    """Write the dataset folder `out`; it exists whole or not at all, and is never overwritten.

    Args:
        out: The folder to make. Its parents are made too; it may be there if it is empty.
        name: What reports call the data set.
        source: Where it came from, for `dataset.json`.
        interactions: Batches of `interaction_schema`, in any order of time. Ids are strings or
            int64 and stay what they are; ratings are on a scale of 5; timestamps are seconds.
        items: Batches of `item_schema`, all of one schema; of an id described twice the first row
            counts. Items that no interaction mentions are dropped; items without a row get one
            with empty lists. Rows end up in the order of first appearance in the interactions.
        skipped: Reason -> rows the reader left out; read when both streams have ended.
        presorted: The interactions promise to come in time order: refuse them otherwise. Without
            it order is noticed too, and the sort left out.
        min_items: Attribute kind -> number of items a value has to occur in to be kept.
        memory_limit: What the sort may hold in memory before it spills to disk.

    Raises:
        UsageError: `out` is not empty, or the batches break their schema.
        InputError: There is no interaction.
        BackstayError: Memory or disk space ran out.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a link in place of out
    check_target(out)
    with new_folder(out) as new:
        folder = new.path
        work = folder / "work"
        work.mkdir()
        fingerprint = Fingerprint()
        try:
            passed = _stage_interactions(work / INTERACTIONS_FILE, interactions)
            if presorted and not passed.is_sorted:
                raise UsageError("the interactions were promised in time order and are not.")
            kinds = _stage_items(work / ITEMS_FILE, items, item_id=passed.item_id)
            with duckdb.connect() as database:
                database.execute("SET memory_limit = ?", [memory_limit])
                database.execute("SET threads = ?", [min(4, os.cpu_count() or 1)])
                database.execute("SET temp_directory = ?", [str(work / "spill")])
                _sort(folder, passed, database, fingerprint)
                counts, repeated = _join(folder, kinds, database, fingerprint, min_items or {})
        except (duckdb.Error, OSError) as error:  # an OSError is also how a sort's errors come out
            reason = str(error).splitlines()[0]
            raise BackstayError(
                f"writing {out} with {memory_limit} of memory failed: {reason}. "
                "Give it more memory, or free disk space next to it."
            ) from error
        shutil.rmtree(work)
        left_out = {**(skipped or {}), **({REPEATED_ITEM: repeated} if repeated else {})}
        info = DatasetInfo(
            name=name,
            source=source,
            counts=counts,
            time_span=(passed.first, passed.last),
            rating_range=(passed.least_rating, passed.greatest_rating),
            attribute_kinds=kinds,
            fingerprint=fingerprint.hexdigest(),
            skipped=left_out,
        )
        (folder / INFO_FILE).write_text(info.to_json(), encoding="utf-8")
    return info


def check_target(out: Path) -> None:
    """Refuse a target that is anything but absent or an empty folder."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise UsageError(
            f"{out} is there already and not empty; nothing is ever overwritten. "
            "Name another folder, or remove this one first."
        )


class _Passed:
    """What is seen of the interactions as they pass: their order, span and range."""

    def __init__(self, schema: pa.Schema) -> None:
        self.item_id = schema.field("item_id").type
        self.is_sorted = True
        self.rows = 0
        self.first, self.last = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        self.least_rating, self.greatest_rating = float("inf"), float("-inf")

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            times = batch["timestamp"].to_numpy()
            ratings = batch["rating"].to_numpy()
            if not np.isfinite(ratings).all():
                raise UsageError("expected finite ratings, found NaN or infinity among them.")
            self.rows += len(times)
            self.is_sorted &= bool(times[0] >= self.last and (times[1:] >= times[:-1]).all())
            self.first = min(self.first, int(times.min()))
            self.last = max(self.last, int(times.max()))
            self.least_rating = min(self.least_rating, float(ratings.min()))
            self.greatest_rating = max(self.greatest_rating, float(ratings.max()))
            yield batch


def _stage_interactions(path: Path, interactions: Iterable[pa.RecordBatch]) -> _Passed:
    """Write the interactions to disk as they come."""
    batches = (batch for batch in interactions if batch.num_rows)
    first = next(batches, None)
    if first is None:
        raise InputError("there is no interaction to write; check the files that were read.")
    schema = _checked_schema(first.schema)
    passed = _Passed(schema)
    _write(path, schema, passed.watch(_checked(chain([first], batches), schema)))
    return passed


def _stage_items(
    path: Path, items: Iterable[pa.RecordBatch], *, item_id: pa.DataType
) -> tuple[str, ...]:
    """Write the item rows to disk as they come; return the attribute kinds."""
    batches = iter(items)
    first = next(batches, None)
    if first is None:
        first = pa.RecordBatch.from_pylist([], item_schema((), item_id=item_id))
    schema = first.schema
    kinds = tuple(schema.names[1:])
    if schema != item_schema(kinds, item_id=item_id):
        raise UsageError(
            f"expected items with item_id ({item_id}, as in the interactions) and list<string> "
            f"columns, found: {_describe(schema)}."
        )
    _write(path, schema, _checked(chain([first], batches), schema))
    return kinds


def _sort(
    folder: Path, passed: _Passed, database: duckdb.DuckDBPyConnection, fingerprint: Fingerprint
) -> None:
    """Make interactions.parquet of the staged rows."""
    raw, target = folder / "work" / INTERACTIONS_FILE, folder / INTERACTIONS_FILE
    if passed.is_sorted:
        raw.rename(target)
        with pq.ParquetFile(target) as file:
            for batch in file.iter_batches(_BATCH):
                fingerprint.update("interactions", batch)
        return
    logger.info("sorting %s interactions by time", f"{passed.rows:,}")
    schema = pq.read_schema(raw)
    rows = database.sql(
        "SELECT user_id, item_id, rating, timestamp"
        " FROM read_parquet(?, file_row_number = true) ORDER BY timestamp, file_row_number",
        params=[glob.escape(str(raw))],
    ).to_arrow_reader(_BATCH)
    _write(target, schema, fingerprint.watch("interactions", _cast(rows, schema)))
    raw.unlink()


def _join(
    folder: Path,
    kinds: tuple[str, ...],
    database: duckdb.DuckDBPyConnection,
    fingerprint: Fingerprint,
    min_items: Mapping[str, int],
) -> tuple[dict[str, int], int]:
    """Make items.parquet of the staged rows; return the counts and the repeated item rows."""
    interactions, raw = folder / INTERACTIONS_FILE, folder / "work" / ITEMS_FILE
    schema = pq.read_schema(raw)
    paths = [glob.escape(str(path)) for path in (interactions, raw)]
    database.execute(
        "CREATE TEMP TABLE rated AS SELECT item_id, min(file_row_number) AS position"
        " FROM read_parquet(?, file_row_number = true) GROUP BY item_id",
        paths[:1],
    )
    database.execute(
        "CREATE TEMP TABLE described AS SELECT item_id, min(file_row_number) AS row"
        " FROM read_parquet(?, file_row_number = true) GROUP BY item_id",
        paths[1:],
    )
    columns = "".join(f", coalesce({_quoted(kind)}, []) AS {_quoted(kind)}" for kind in kinds)
    database.execute(
        f"CREATE TEMP TABLE kept AS SELECT rated.item_id, position{columns} FROM rated"  # noqa: S608
        " LEFT JOIN described USING (item_id)"
        " LEFT JOIN read_parquet(?, file_row_number = true) AS raw ON raw.file_row_number = row",
        paths[1:],
    )

    def number(query: str, *parameters: Any) -> int:
        row = database.execute(query, list(parameters)).fetchone()
        return int(row[0]) if row else 0

    common = {
        kind: _common_values(database, kind, least)
        for kind, least in min_items.items()
        if kind in kinds
    }
    rows = database.sql("SELECT * EXCLUDE (position) FROM kept ORDER BY position")
    bare = _Bare()
    filtered = (
        _only_common(batch, common) for batch in _cast(rows.to_arrow_reader(_BATCH), schema)
    )
    _write(folder / ITEMS_FILE, schema, fingerprint.watch("items", bare.watch(filtered)))
    counts = {
        "interactions": pq.read_metadata(interactions).num_rows,
        "users": number(
            "SELECT count(*) FROM (SELECT DISTINCT user_id FROM read_parquet(?))", paths[0]
        ),
        "items": number("SELECT count(*) FROM rated"),
        "items_without_attributes": bare.rows,
        "items_without_interactions": number(
            "SELECT count(*) FROM described ANTI JOIN rated USING (item_id)"
        ),
    }
    repeated = pq.read_metadata(raw).num_rows - number("SELECT count(*) FROM described")
    return counts, repeated


class _Bare:
    """Counts, as they pass, the items without a value of any kind."""

    def __init__(self) -> None:
        self.rows = 0

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            lengths = np.zeros(batch.num_rows, np.int64)
            for column in batch.columns[1:]:
                lengths += pc.list_value_length(column).to_numpy()
            self.rows += int((lengths == 0).sum())
            yield batch


def _checked_schema(schema: pa.Schema) -> pa.Schema:
    ids = {name: schema.field(name).type for name in ("user_id", "item_id") if name in schema.names}
    expected = interaction_schema(**ids)
    if schema != expected or any(type_ not in _ID_TYPES for type_ in ids.values()):
        raise UsageError(
            "expected interactions with user_id, item_id (string or int64), rating (float32) and "
            f"timestamp (int64), found: {_describe(schema)}."
        )
    return expected


def _checked(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The non-empty batches, refusing another schema and nulls."""
    for batch in batches:
        if batch.schema != schema:
            raise UsageError(
                f"expected every batch with {_describe(schema)}, found: {_describe(batch.schema)}."
            )
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            values = column.flatten() if column.type == STRINGS else column
            if column.null_count or values.null_count:
                raise UsageError(f"expected a value in every row of {name}, found nulls.")
        if batch.num_rows:
            yield batch


def _write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write batches of any size as row groups of about `_ROW_GROUP` rows."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        pending: list[pa.RecordBatch] = []
        rows = 0
        for batch in batches:
            pending.append(batch)
            rows += batch.num_rows
            if rows >= _ROW_GROUP:
                writer.write_table(pa.Table.from_batches(pending), row_group_size=_ROW_GROUP)
                pending, rows = [], 0
        if pending:
            writer.write_table(pa.Table.from_batches(pending), row_group_size=_ROW_GROUP)


def _cast(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batches of a query under the names and types of `schema`."""
    for batch in batches:
        yield pa.RecordBatch.from_arrays(
            [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)],
            schema=schema,
        )


def _common_values(database: duckdb.DuckDBPyConnection, kind: str, least: int) -> pa.Array:
    query = (
        f"SELECT value FROM (SELECT unnest(list_distinct({_quoted(kind)})) AS value FROM kept)"  # noqa: S608
        " GROUP BY value HAVING count(*) >= ?"
    )
    return pa.array([row[0] for row in database.execute(query, [least]).fetchall()], pa.string())


def _only_common(batch: pa.RecordBatch, common: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """The batch with only those values of some kinds that are `common`."""
    for kind, values in common.items():
        lists = batch[kind]
        kept = pc.is_in(lists.flatten(), value_set=values)
        before = np.concatenate([[0], np.cumsum(kept.to_numpy(zero_copy_only=False))])
        ends = np.cumsum(pc.list_value_length(lists).to_numpy())
        offsets = pa.array(before[np.concatenate([[0], ends])], pa.int32())
        column = pa.ListArray.from_arrays(offsets, lists.flatten().filter(kept))
        batch = batch.set_column(batch.schema.get_field_index(kind), kind, column.cast(STRINGS))
    return batch


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "no column"
