"""Embedding tables from outside the registry: reads ids first, then vectors of a sample of them.

    id         string | integer, unique
    embedding  list of floats, as many in every row

The table is a Parquet file or a folder of them. Unlike the registry's tables it may hold floats of
any width, and further columns. Memory holds one batch of ids or vectors; keys of ids are on local
disk.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array
from pyarrow.parquet import ParquetFile

from backstay.errors import InputError
from backstay.registry.labels import Labels, refuse_mixed
from backstay.registry.stored import open_delta
from backstay.registry.table_commit import read_commit
from backstay.registry.tables import EmbeddingTable
from backstay.storage.files import Files, open_files
from backstay.storage.ids import IdType
from backstay.storage.keys import KeyFile, refuse_duplicates
from backstay.storage.parquet_parts import open_part, part_names, read_batches

logger = logging.getLogger("backstay.table_maps")

Keys = npt.NDArray[np.uint64]
Float32 = npt.NDArray[np.float32]

BATCH_BYTES = 64 << 20
"""Bytes of vectors decoded at once."""

_ID_ROWS = 1 << 18
_READ_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class OutsideTable:
    """An open table; only its ids have been read."""

    path: str
    files: Files
    parts: tuple[str, ...]
    id_type: IdType
    dim: int
    keys: KeyFile  # a 64-bit hash of each id
    labels: Labels
    stored: EmbeddingTable | None = None  # where the rows are those of a table of a registry

    @property
    def name(self) -> str:
        """The file's or folder's own name."""
        return PurePosixPath(self.path.rstrip("/")).stem or self.path

    def gather(self, wanted: Keys, path: Path) -> Float32:
        """Write the vectors of the `wanted` keys (n,), increasing, to a memory map (n, D).

        Reads and checks every vector of the table once. InputError names the row of a null, of a
        vector with another dimension, or of one that is not finite.
        """
        values = np.lib.format.open_memmap(
            path, mode="w+", dtype=np.float32, shape=(len(wanted), self.dim)
        )
        done = 0
        for ids, vectors in self.batches():
            self._check_finite(ids, vectors, first_row=done)
            keys = self.keys.read(done, len(ids))
            done += len(ids)
            place = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
            found = wanted[place] == keys
            values[place[found]] = vectors[found]
        values.flush()
        return values

    def batches(self) -> Iterator[tuple[pa.Array, Float32]]:
        """Ids and vectors of all rows, in their order."""
        done = 0
        rows = max(1, BATCH_BYTES // (8 * self.dim))
        if self.stored is not None:
            yield from self.stored.batches(rows)
            return
        for part, batch in _read(self.files, self.parts, rows=rows):
            yield batch.column("id"), batch_vectors(batch, part, dim=self.dim, first_row=done)
            done += len(batch)

    def _check_finite(self, ids: pa.Array, vectors: Float32, *, first_row: int) -> None:
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise InputError(
                f"{self.path}: row {first_row + row}, id {ids[row].as_py()!r}: the vector isn't "
                "finite in float32 (NaN or infinity). Leave the row out, or check the model."
            )


def open_outside_table(path: str | Path) -> OutsideTable:
    """Open a table, a Parquet file or a folder of them, by path or URL; read its ids.

    Raises InputError if the table breaks the format or has no rows.
    """
    files = open_files(path)
    commit = read_commit(files)
    if commit is not None and commit.delta is not None:
        return stored_table(open_delta(files, commit), str(path))
    return outside_table(files, _parts(files, str(path)), str(path))


def stored_table(table: EmbeddingTable, path: str) -> OutsideTable:
    """A table of a registry as an outside table; `path` names it in messages."""
    if not table.rows:
        raise InputError(f"{path} has no rows; expected at least one.")
    keys = KeyFile()
    for ids in table.id_batches(_ID_ROWS):
        keys.append(_keys(ids))
    return OutsideTable(
        path=path,
        files=table.files,
        parts=table.parts,
        id_type=table.id_type,
        dim=table.dim,
        keys=keys,
        labels=Labels(
            path=path,
            space=table.space,
            entity=table.entity,
            version=table.version,
            fingerprint=table.fingerprint,
        ),
        stored=table,
    )


def outside_table(files: Files, parts: tuple[str, ...], path: str) -> OutsideTable:
    """`open_outside_table` for given files; `path` names the table in messages."""
    id_type = dim = labels = None
    for part in parts:
        full = files.full(part)
        with open_part(files, part, read_ahead=_READ_BYTES) as file:
            found = _id_type(file.schema_arrow, full), _dim(file, full)
            own = Labels.of(file.schema_arrow, full)
        labels = labels or own
        refuse_mixed(labels, own)
        if dim is None:
            id_type, dim = found
        elif found[1] is not None and found != (id_type, dim):
            raise InputError(
                f"{full} holds {found[0]} ids and {found[1]} dimensions; the parts before it hold "
                f"{id_type} and {dim}. One table has one of each."
            )
    if id_type is None or dim is None or labels is None:
        raise InputError(f"{path} has no rows; expected at least one.")
    keys = KeyFile()
    for part, batch in _read(files, parts, rows=_ID_ROWS, columns=("id",)):
        ids = batch.column("id")
        if ids.null_count:
            raise InputError(f"{part} has a row without an id (null); leave it out.")
        keys.append(_keys(ids))
    table = OutsideTable(
        path=path,
        files=files,
        parts=parts,
        id_type=id_type,
        dim=dim,
        keys=keys,
        labels=replace(labels, path=path),
    )
    # Two ids with equal hashes (in 3 of 10⁶ tables of 10⁷ rows) pass: the later row is used.
    again = _read(files, parts, rows=_ID_ROWS, columns=("id",))
    refuse_duplicates(keys, (batch.column("id") for _, batch in again), table=path)
    logger.info("%s: %s rows of %s dimensions", path, f"{keys.rows:,}", dim)
    return table


def open_outside_tables(paths: Sequence[str | Path]) -> tuple[OutsideTable, ...]:
    """Open tables in version order, oldest first.

    Raises InputError if id types differ, or if tables from a registry are out of order.
    """
    tables = tuple(open_outside_table(path) for path in paths)
    for table in tables[1:]:
        if table.id_type != tables[0].id_type:
            raise InputError(
                f"{table.path} has {table.id_type} ids and {tables[0].path} {tables[0].id_type} "
                "ids: they can't be joined. Cast one of them."
            )
    versions = [table.labels.version for table in tables if table.labels.version is not None]
    if versions != sorted(versions):
        raise InputError(
            "expected the tables in version order, oldest first; their metadata name the versions "
            f"{', '.join(map(str, versions))}."
        )
    return tables


def _parts(files: Files, path: str) -> tuple[str, ...]:
    if not files.fs.exists(files.root):
        raise InputError(f"{path} is not there; expected a Parquet file or a folder of them.")
    parts = part_names(files)
    if not parts:
        raise InputError(f"{path} holds no *.parquet files; expected a table's parts.")
    return parts


def _read(
    files: Files, parts: Sequence[str], *, rows: int, columns: Sequence[str] = ("id", "embedding")
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Each part's full path with its record batches, in row order."""
    # Without reading ahead, a row group's columns are read whole; a table may be one row group.
    return read_batches(files, parts, rows=rows, columns=columns, read_ahead=_READ_BYTES)


def _id_type(schema: pa.Schema, path: str) -> IdType:
    missing = {"id", "embedding"} - set(schema.names)
    if missing:
        raise InputError(
            f"{path} has no column {' and no column '.join(sorted(missing))}; found "
            f"{', '.join(schema.names)}. Rename: id names the row, embedding is its vector."
        )
    type_ = schema.field("id").type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_integer(type_):
        return "int64"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "string"
    raise InputError(f"{path} must hold id as string or integer; found {type_}.")


def _dim(file: ParquetFile, path: str) -> int | None:
    """The dimension by a part's type, or else by its first row; None without rows."""
    type_ = file.schema_arrow.field("embedding").type
    fixed = pa.types.is_fixed_size_list(type_)
    if not (fixed or pa.types.is_list(type_) or pa.types.is_large_list(type_)) or not (
        pa.types.is_floating(type_.value_type)
    ):
        raise InputError(
            f"{path} must hold embedding as a list of floats, fixed-size or not; found {type_}."
        )
    if not file.metadata.num_rows:
        return None
    if fixed:
        return int(type_.list_size)
    first = next(file.iter_batches(1, columns=["embedding"])).column(0)[0].as_py()
    if not first:
        raise InputError(f"{path}: row 0 has no vector; leave the row out.")
    return len(first)


def batch_vectors(batch: pa.RecordBatch, part: str, *, dim: int, first_row: int) -> Float32:
    """The vectors of a record batch, (n, D); InputError if a row has none or another length."""
    column = batch.column("embedding")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((lengths != dim) | pc.is_null(column).to_numpy(zero_copy_only=False))
    if len(wrong):
        row = int(wrong[0])
        found = f"{lengths[row]} dimensions" if column[row].is_valid else "null"
        raise InputError(
            f"{part}: row {first_row + row}, id {batch.column('id')[row].as_py()!r}: expected "
            f"{dim} dimensions as in the first row, found {found}. One table has one dimension."
        )
    flat = column.flatten().to_numpy(zero_copy_only=False)  # a null in a vector becomes NaN
    with np.errstate(over="ignore"):  # infinity is refused later, with its row
        values: Float32 = flat.astype(np.float32, copy=False).reshape(-1, dim)
        return values


def _keys(ids: pa.Array) -> Keys:
    """A 64-bit hash of each id, the same in every table and on every machine."""
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    if pa.types.is_integer(ids.type):
        try:
            return hash_array(ids.cast(pa.int64()).to_numpy(zero_copy_only=False))
        except pa.ArrowInvalid as error:
            raise InputError(f"an id doesn't fit 64 bits with a sign ({error}).") from error
    return hash_array(ids.to_numpy(zero_copy_only=False), categorize=False)
