"""Embedding tables: Parquet files of ids and float32 vectors, labelled with their version.

    id         string | int64
    embedding  fixed-size list of float32 (or float16, in converted tables), of length D

in part-*.parquet files, uncompressed and without dictionaries (vectors get no smaller by either),
with space, entity, version and fingerprint in the schema's metadata, and a commit file that lists
them. A table stored as a delta is read out of its base, the table of an older version, with an
overlay of changed and deleted rows, followed by the new rows in its own parts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.parquet import ParquetFile

from backstay.compat.maps import Vectors
from backstay.errors import InputError
from backstay.registry.labels import check_labels
from backstay.registry.overlay import Overlay, OverlayReader, numbers
from backstay.registry.table_commit import TableCommit
from backstay.registry.table_layout import (
    ENTITY,
    FINGERPRINT,
    SPACE,
    Float32,
    FloatType,
    check_layout,
    labels_of,
    table_schema,
    version_of,
)
from backstay.storage.files import FileDigest, Files
from backstay.storage.ids import ID_TYPES, IdType
from backstay.storage.parquet_parts import open_part, part_batches

Batch = tuple[pa.Array, Float32]
"""Ids (n,) and their vectors (n, D)."""

_LAID_OVER_BYTES = 1 << 20  # vectors of a base read at once; they stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class EmbeddingTable:
    """An opened table; its rows are read on demand. Can be pickled, for tasks of Ray."""

    space: str
    entity: str
    version: int
    dim: int
    rows: int
    id_type: IdType
    dtype: FloatType = "float32"  # of the stored numbers; rows are read as float32
    files: Files
    parts: tuple[str, ...]  # paths in `files`, in row order
    extra_columns: bool = False  # whether parts may hold more than id and embedding
    fingerprint: str | None = None  # of the build it is part of
    digests: tuple[FileDigest, ...] = ()  # of the parts, checked at reading; empty: not known
    base: "EmbeddingTable | None" = None  # whose rows come before those of the parts
    overlay: Overlay | None = None  # the rows of the base that are changed or gone

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of its rows, metadata included."""
        return table_schema(
            self.dim,
            self.id_type,
            space=self.space,
            entity=self.entity,
            version=self.version,
            dtype=self.dtype,
            fingerprint=self.fingerprint,
        )

    def batches(self, batch_rows: int = 65536) -> Iterator[Batch]:
        """Ids (n,) and vectors (n, D) float32 of at most `batch_rows` rows, in row order.

        Vectors of float32 share the memory that Parquet decoded them into. InputError where a part
        breaks the layout.

        Rows of a delta come in the order of its base: a changed row in its old place, a deleted one
        left out, and new rows at the end.
        """
        if self.base is not None and self.overlay is not None:
            row = 0
            with OverlayReader(self.overlay) as reader:
                in_cache = max(1, _LAID_OVER_BYTES // (4 * self.dim))
                for ids, values in self.base.batches(min(batch_rows, in_cache)):
                    batch = reader.lay_over(ids, values, row)
                    row += len(ids)
                    if len(batch[0]):
                        yield batch
        done = 0
        for part, digest in zip_longest(self.parts, self.digests):
            path = self.files.full(part)
            with open_part(self.files, part, digest=digest) as file:
                _check_part(file, self, path)
                columns = ["id", "embedding"]
                for batch in part_batches(file, batch_rows, columns=columns, path=path):
                    yield _columns(batch, self, part=path, first_row=done)
                    done += len(batch)

    def id_batches(self, batch_rows: int = 65536) -> Iterator[pa.Array]:
        """The ids (n,) of at most `batch_rows` rows, in row order; vectors are not read."""
        if self.base is not None and self.overlay is not None:
            row = 0
            for ids in self.base.id_batches(batch_rows):
                kept = self.overlay.kept(row, len(ids))
                row += len(ids)
                yield ids if kept is None else ids.filter(pa.array(kept))
        for part, digest in zip_longest(self.parts, self.digests):
            with open_part(self.files, part, digest=digest) as file:
                path = self.files.full(part)
                for batch in part_batches(file, batch_rows, columns=["id"], path=path):
                    yield batch.column("id").cast(ID_TYPES[self.id_type])

    def read(self) -> Batch:
        """All ids (rows,) and vectors (rows, D)."""
        values = np.empty((self.rows, self.dim), np.float32)
        ids = []
        done = 0
        for batch_ids, batch_values in self.batches():
            values[done : done + len(batch_ids)] = batch_values
            ids.append(batch_ids)
            done += len(batch_ids)
        return pa.concat_arrays(ids or [pa.array([], ID_TYPES[self.id_type])]), values

    def vectors(self) -> Vectors:
        """All vectors, with their space and version."""
        return Vectors(self.space, self.version, self.read()[1])


def table_of_parts(files: Files, folder: str, commit: TableCommit) -> EmbeddingTable:
    """The rows of the parts that a commit file in `folder` lists; of a delta, its new rows."""
    return EmbeddingTable(
        space=commit.space,
        entity=commit.entity,
        version=commit.version,
        dim=commit.dim,
        rows=commit.rows,
        id_type=commit.id_type,
        dtype=commit.dtype,
        files=files,
        parts=tuple(f"{folder}/{part.name}".lstrip("/") for part in commit.parts),
        fingerprint=commit.fingerprint,
        digests=tuple(part.digest for part in commit.parts),
    )


def open_parts(
    files: Files,
    parts: tuple[str, ...],
    *,
    space: str | None = None,
    version: int | None = None,
    entity: str | None = None,
    extra_columns: bool = False,
) -> EmbeddingTable:
    """The table that these files are: reads their footers, no rows. Raises like `open_table`."""
    table: EmbeddingTable | None = None
    rows = 0
    for part in parts:
        path = files.full(part)
        with open_part(files, part) as file:
            if table is None:
                table = _describe(
                    file, path, files, parts, (space, version, entity), extra_columns=extra_columns
                )
            _check_part(file, table, path)
            rows += file.metadata.num_rows
    if table is None:
        raise InputError("a table needs at least one part.")
    return EmbeddingTable(**{**vars(table), "rows": rows})


def _describe(
    file: ParquetFile,
    path: str,
    files: Files,
    parts: tuple[str, ...],
    given: tuple[str | None, int | None, str | None],
    *,
    extra_columns: bool,
) -> EmbeddingTable:
    """A table by its first part; `given` are space, version and entity."""
    id_type, dim, dtype = check_layout(file.schema_arrow, path, extra_columns=extra_columns)
    labels = labels_of(file.schema_arrow, path)
    space, version, entity = given
    if space is None:
        space = labels.get(SPACE)
    if version is None:
        version = version_of(labels, path)
    if entity is None:
        entity = labels.get(ENTITY, PurePosixPath(path).stem)
    if space is None or version is None:
        raise InputError(
            f"{path} has no label of the space and version of its vectors; name them (space=…, "
            "version=…)."
        )
    return EmbeddingTable(
        space=space,
        entity=entity,
        version=version,
        dim=dim,
        rows=0,
        id_type=id_type,
        dtype=dtype,
        files=files,
        parts=parts,
        extra_columns=extra_columns,
        fingerprint=labels.get(FINGERPRINT),
    )


def _check_part(file: ParquetFile, table: EmbeddingTable, path: str) -> None:
    id_type, dim, dtype = check_layout(file.schema_arrow, path, extra_columns=table.extra_columns)
    if (id_type, dim, dtype) != (table.id_type, table.dim, table.dtype):
        raise InputError(
            f"{path} holds {id_type} ids and dimension {dim}; the table has {table.id_type} and "
            f"{table.dim} (numbers: {dtype}; the table's: {table.dtype})."
        )
    check_labels(
        labels_of(file.schema_arrow, path),
        path,
        space=table.space,
        version=table.version,
        entity=table.entity,
        fingerprint=table.fingerprint,
    )


def _columns(batch: pa.RecordBatch, table: EmbeddingTable, *, part: str, first_row: int) -> Batch:
    """A record batch as ids of the table's id type and a (n, D) view of its vectors."""
    ids, vectors = batch.column("id"), batch.column("embedding")
    flat = vectors.flatten()
    if ids.null_count or vectors.null_count or flat.null_count:
        nulls = pc.or_(pc.is_null(ids), pc.is_null(vectors)).to_numpy(zero_copy_only=False)
        row = f"row {first_row + int(np.argmax(nulls))}" if nulls.any() else "a vector"
        raise InputError(f"{part}: {row} has a null; give it a value or leave the row out.")
    try:
        ids = ids.cast(ID_TYPES[table.id_type])
    except pa.ArrowInvalid as error:
        raise InputError(f"{part}: an id doesn't fit {table.id_type} ({error}).") from error
    if table.dtype == "float32":
        return ids, numbers(vectors)
    return ids, flat.to_numpy().reshape(-1, table.dim).astype(np.float32)
