"""Write a dataset folder from streams of any size, whole or not at all.

The rows go to disk as they come; DuckDB then sorts them. Everything happens in a hidden folder
beside the target, which one rename turns into the target.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from backstay.datasets.arrange import (
    STRINGS,
    join_items,
    open_database,
    sort_interactions,
    write_batches,
)
from backstay.datasets.dataset import INFO_FILE, INTERACTIONS_FILE, ITEMS_FILE, DatasetInfo
from backstay.datasets.fingerprint import Fingerprint
from backstay.errors import BackstayError, InputError, UsageError
from backstay.storage.documents import JsonObject
from backstay.storage.folders import new_folder

REPEATED_ITEM = "metadata: item described before"

_ID_TYPES = (pa.string(), pa.int64())


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
    source: JsonObject,
    interactions: Iterable[pa.RecordBatch],
    items: Iterable[pa.RecordBatch],
    skipped: Mapping[str, int] | None = None,
    presorted: bool = False,
    min_items: Mapping[str, int] | None = None,
    memory_limit: str = "1GB",
) -> DatasetInfo:
    """Write the dataset folder `out`; it exists whole or not at all, and is never overwritten.

    Args:
        out: A new or empty folder.
        name: Name of the dataset in reports.
        source: Its origin, for `dataset.json`.
        interactions: Batches of `interaction_schema`, in any order of time. Ids are strings or
            int64 and stay what they are; ratings are on a scale of 5; timestamps are seconds.
        items: Batches of `item_schema`, all of one schema; of an id described twice the first row
            counts. Items that no interaction mentions are dropped; items without a row get one
            with empty lists. Rows end up in the order of first appearance in the interactions.
        skipped: Reason -> rows the reader left out; read when both streams have ended.
        presorted: Refuse interactions that are not in time order. Without it they are sorted,
            unless they are in order already.
        min_items: Attribute kind -> least number of items a value must occur in to be written.
        memory_limit: Memory of the sort, such as "1GB"; beyond it, it spills to disk.

    Raises UsageError for batches that break their schema, InputError if there is no interaction,
    BackstayError if memory or disk space ran out.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a link in place of out
    check_target(out)
    with new_folder(out) as folder:
        work = folder / "work"
        work.mkdir()
        fingerprint = Fingerprint()
        try:
            passed = _stage_interactions(work / INTERACTIONS_FILE, interactions)
            if presorted and not passed.is_sorted:
                raise UsageError(
                    "expected interactions in time order (presorted=True), found them out of order."
                )
            kinds = _stage_items(work / ITEMS_FILE, items, item_id=passed.item_id)
            interactions_file = folder / INTERACTIONS_FILE
            with open_database(work / "spill", memory_limit=memory_limit) as database:
                sort_interactions(
                    work / INTERACTIONS_FILE,
                    interactions_file,
                    database,
                    fingerprint,
                    is_sorted=passed.is_sorted,
                )
                counts = join_items(
                    work / ITEMS_FILE,
                    interactions_file,
                    folder / ITEMS_FILE,
                    database,
                    fingerprint,
                    min_items=min_items or {},
                )
        except (duckdb.Error, OSError) as error:  # an OSError is also how a sort's errors come out
            reason = str(error).splitlines()[0]
            raise BackstayError(
                f"writing {out} with {memory_limit} of memory failed: {reason}. "
                "Give it more memory, or free disk space next to it."
            ) from error
        shutil.rmtree(work)
        repeated = {REPEATED_ITEM: counts.repeated} if counts.repeated else {}
        info = DatasetInfo(
            name=name,
            source=source,
            counts=counts.of_dataset,
            time_span=(passed.first, passed.last),
            rating_range=(passed.least_rating, passed.greatest_rating),
            attribute_kinds=kinds,
            fingerprint=fingerprint.hexdigest(),
            skipped={**(skipped or {}), **repeated},
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
    """Records the order, time span and rating range of the interactions that pass."""

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
    write_batches(path, schema, passed.watch(_checked(chain([first], batches), schema)))
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
    write_batches(path, schema, _checked(chain([first], batches), schema))
    return kinds


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


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "no column"
