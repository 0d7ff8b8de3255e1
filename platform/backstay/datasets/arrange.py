"""Putting a dataset's rows in order with DuckDB, which spills to disk within a memory limit."""

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from backstay.datasets.fingerprint import Fingerprint

logger = logging.getLogger("backstay.datasets")

STRINGS = pa.list_(pa.string())
"""The type of an attribute kind's column."""

_ROW_GROUP = 1 << 18  # rows; 10 MB or so of interactions are in memory at a time
_BATCH = 1 << 16


@contextmanager
def open_database(spill: Path, *, memory_limit: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory that spills to the folder `spill` beyond `memory_limit`."""
    with duckdb.connect() as database:
        database.execute("SET memory_limit = ?", [memory_limit])
        database.execute("SET threads = ?", [min(4, os.cpu_count() or 1)])
        database.execute("SET temp_directory = ?", [str(spill)])
        yield database


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
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


def sort_interactions(
    raw: Path,
    target: Path,
    database: duckdb.DuckDBPyConnection,
    fingerprint: Fingerprint,
    *,
    is_sorted: bool,
) -> None:
    """Move the interactions from `raw` to `target` in time order, ties in input order."""
    if is_sorted:
        raw.rename(target)
        with pq.ParquetFile(target) as file:
            for batch in file.iter_batches(_BATCH):
                fingerprint.update("interactions", batch)
        return
    logger.info("sorting %s interactions by time", f"{pq.read_metadata(raw).num_rows:,}")
    schema = pq.read_schema(raw)
    rows = database.sql(
        "SELECT user_id, item_id, rating, timestamp"
        " FROM read_parquet(?, file_row_number = true) ORDER BY timestamp, file_row_number",
        params=[glob.escape(str(raw))],
    ).to_arrow_reader(_BATCH)
    write_batches(target, schema, fingerprint.watch("interactions", _cast(rows, schema)))
    raw.unlink()


@dataclass(frozen=True)
class ItemCounts:
    """The counts that joining items to their interactions gives."""

    of_dataset: dict[str, int]  # `DatasetInfo.counts`
    repeated: int  # item rows left out, because an earlier row has the same id


def join_items(
    raw: Path,
    interactions: Path,
    target: Path,
    database: duckdb.DuckDBPyConnection,
    fingerprint: Fingerprint,
    *,
    min_items: Mapping[str, int],
) -> ItemCounts:
    """Write the rows of `raw` to `target`, one for each item of the interactions.

    Rows stand in the order of first appearance in the interactions. Values of the kinds in
    `min_items` are left out where they occur in fewer items.
    """
    schema = pq.read_schema(raw)
    kinds = schema.names[1:]
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
        f"CREATE TEMP TABLE joined AS SELECT rated.item_id, position{columns} FROM rated"  # noqa: S608
        " LEFT JOIN described USING (item_id)"
        " LEFT JOIN read_parquet(?, file_row_number = true) AS raw ON raw.file_row_number = row",
        paths[1:],
    )

    def number(query: str, *parameters: str) -> int:
        row = database.execute(query, list(parameters)).fetchone()
        return int(row[0]) if row else 0

    common = {
        kind: _common_values(database, kind, least)
        for kind, least in min_items.items()
        if kind in kinds
    }
    rows = database.sql("SELECT * EXCLUDE (position) FROM joined ORDER BY position")
    bare = _Bare()
    filtered = (
        _only_common(batch, common) for batch in _cast(rows.to_arrow_reader(_BATCH), schema)
    )
    write_batches(target, schema, fingerprint.watch("items", bare.watch(filtered)))
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
    return ItemCounts(counts, repeated)


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


def _cast(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batches of a query under the names and types of `schema`."""
    for batch in batches:
        yield pa.RecordBatch.from_arrays(
            [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)],
            schema=schema,
        )


def _common_values(database: duckdb.DuckDBPyConnection, kind: str, least: int) -> pa.Array:
    query = (
        f"SELECT value FROM (SELECT unnest(list_distinct({_quoted(kind)})) AS value FROM joined)"  # noqa: S608
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
