"""A dataset folder: what every reader writes and everything downstream reads.

    interactions.parquet   user_id, item_id (string or int64), rating float32, timestamp int64;
                           sorted by timestamp, ties in input order
    items.parquet          item_id, then one list<string> column per attribute kind
    dataset.json           DatasetInfo: where it came from, counts, time span, fingerprint

Ratings are on a scale of 5, timestamps are seconds since the epoch. Ids stay what they were.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ConfigDict, TypeAdapter, ValidationError

from backstay.datasets.csr import Csr, starts_of
from backstay.errors import InputError, UsageError
from backstay.storage.documents import JsonObject, first_fault

INTERACTIONS_FILE = "interactions.parquet"
ITEMS_FILE = "items.parquet"
INFO_FILE = "dataset.json"

ITEM_KIND = "item"
"""The attribute kind made of the items' own ids: for data without attributes, and for models with
one embedding per item."""


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The content of `dataset.json`."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    name: str
    source: JsonObject  # format, files and options it was made from
    counts: dict[str, int]  # interactions, users, items, items_without_attributes
    time_span: tuple[int, int]  # first and last timestamp, seconds since the epoch
    rating_range: tuple[float, float]  # least and greatest rating, on the scale of 5
    attribute_kinds: tuple[str, ...]  # columns of items.parquet after item_id
    fingerprint: str  # SHA-256 over the rows: the same data, the same fingerprint
    skipped: dict[str, int] = field(default_factory=dict)  # reason -> rows left out

    def to_json(self) -> str:
        """The text of `dataset.json`."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "DatasetInfo":
        """Parse the text of `dataset.json`; InputError names the first field that is wrong."""
        try:
            return _info.validate_json(text)
        except ValidationError as error:
            raise InputError(first_fault(error)) from error


_info = TypeAdapter(DatasetInfo)


@dataclass(frozen=True)
class Interactions:
    """The interactions of N rows in time order; users and items indexed by first appearance."""

    users: npt.NDArray[np.int32]  # (N,)
    items: npt.NDArray[np.int32]  # (N,)
    ratings: npt.NDArray[np.float32]  # (N,) of 5
    times: npt.NDArray[np.int64]  # (N,) seconds since the epoch, not decreasing
    user_ids: pa.Array  # (users,) string or int64: the id behind each user index
    item_ids: pa.Array  # (items,) string or int64

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class AttributeKind:
    """One multi-valued attribute of the items, as sparse rows over a vocabulary."""

    name: str
    values: tuple[str, ...]  # the vocabulary, by first appearance along the item index
    rows: Csr  # per item: positions in `values`

    def reindexed(self, values: tuple[str, ...]) -> Self:
        """The same rows over another vocabulary; values that it lacks are left out."""
        position = {value: n for n, value in enumerate(values)}
        lookup = np.fromiter(
            (position.get(value, -1) for value in self.values), np.int32, len(self.values)
        )
        mapped = lookup[self.rows.columns] if len(lookup) else self.rows.columns
        found = mapped >= 0
        rows = Csr(starts_of(found)[self.rows.starts], mapped[found])
        return type(self)(self.name, values, rows)


Vocabulary = dict[str, tuple[str, ...]]
"""Attribute kind -> the values that have an embedding in a model, in the order of its rows."""


@dataclass(frozen=True)
class Attributes:
    """The attributes of the items, one row per item index in every kind."""

    kinds: tuple[AttributeKind, ...]
    item_ids: pa.Array | None = None  # (items,) string or int64: the id behind each row

    def with_ids(self) -> "Attributes":
        """The same items, each with its own id as an attribute: the kind `ITEM_KIND`.

        For models with one embedding per item. Attributes that have the kind stay as they are.
        """
        if any(kind.name == ITEM_KIND for kind in self.kinds):
            return self
        if self.item_ids is None:
            raise UsageError(
                "expected attributes with their items' ids, found none; "
                "take them from Dataset.attributes, or pass item_ids."
            )
        return replace(self, kinds=(*self.kinds, _identity_kind(self.item_ids)))

    def vocabulary(self, *, items: int) -> Vocabulary:
        """The values that occur among the first `items` items."""
        return {
            kind.name: kind.values[
                : int(kind.rows.columns[: kind.rows.starts[items]].max(initial=-1)) + 1
            ]
            for kind in self.kinds
        }

    def reindexed(self, vocabulary: Vocabulary) -> "Attributes":
        """The same items with another vocabulary, such as that of an older model.

        Items have the kind `ITEM_KIND` where the vocabulary has it.
        """
        known = self.with_ids() if ITEM_KIND in vocabulary else self
        by_name = {kind.name: kind for kind in known.kinds}
        rows = len(known.kinds[0].rows.starts)
        empty = Csr(np.zeros(rows, np.int64), np.zeros(0, np.int32))
        return Attributes(
            tuple(
                by_name[name].reindexed(values)
                if name in by_name
                else AttributeKind(name, values, empty)
                for name, values in vocabulary.items()
            ),
            self.item_ids,
        )


@dataclass(frozen=True)
class Dataset:
    """An opened dataset folder; the tables are read when asked for."""

    path: Path
    info: DatasetInfo

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the folder at `path`, which a reader or the marketplace has written."""
        path = Path(path)
        info_file = path / INFO_FILE
        if not info_file.is_file():
            raise InputError(
                f"{path} is no dataset folder: expected {INFO_FILE} in it. "
                "Make one with `backstay ingest`."
            )
        try:
            return cls(path, DatasetInfo.from_json(info_file.read_text(encoding="utf-8")))
        except (InputError, UnicodeDecodeError) as error:
            raise InputError(
                f"{info_file} can't be read ({error}); write it again with `backstay ingest`."
            ) from error

    def interactions(self) -> Interactions:
        """The interactions as index arrays."""
        table = self._read(INTERACTIONS_FILE)
        users, user_ids = _index(table["user_id"])
        items, item_ids = _index(table["item_id"])
        return Interactions(
            users=users,
            items=items,
            ratings=table["rating"].to_numpy().astype(np.float32, copy=False),
            times=table["timestamp"].to_numpy().astype(np.int64, copy=False),
            user_ids=user_ids,
            item_ids=item_ids,
        )

    def attributes(self, item_ids: pa.Array) -> Attributes:
        """The attributes of the items behind `item_ids`, row by row.

        Where the data has no attributes, the items' ids are the only kind.
        """
        if not self.info.attribute_kinds:
            return Attributes((_identity_kind(item_ids),), item_ids)
        table = self._read(ITEMS_FILE)
        rows = pc.index_in(item_ids, value_set=table["item_id"].combine_chunks())
        return Attributes(
            tuple(_kind(name, table[name].take(rows)) for name in self.info.attribute_kinds),
            item_ids,
        )

    def _read(self, name: str) -> pa.Table:
        try:
            return pq.read_table(self.path / name)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{self.path / name} is missing or damaged ({error}); "
                "write the dataset again with `backstay ingest`."
            ) from error


def _index(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], pa.Array]:
    """Number the values of a column by first appearance: (index per row, value per index)."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary


def _kind(name: str, rows: pa.ChunkedArray) -> AttributeKind:
    lists = rows.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.chunk(0) if lists.num_chunks else pa.array([], rows.type)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    encoded = pc.list_flatten(lists).dictionary_encode()
    return AttributeKind(
        name,
        tuple(encoded.dictionary.to_pylist()),
        Csr(starts_of(lengths), encoded.indices.to_numpy(zero_copy_only=False)),
    )


def _identity_kind(item_ids: pa.Array) -> AttributeKind:
    count = len(item_ids)
    return AttributeKind(
        ITEM_KIND,
        tuple(str(value) for value in item_ids.to_pylist()),
        Csr(np.arange(count + 1, dtype=np.int64), np.arange(count, dtype=np.int32)),
    )
