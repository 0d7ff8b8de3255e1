"""Embedding tables: Parquet files of ids and float32 vectors, labelled with their version.

    id         string | int64
    embedding  fixed-size list of float32, of length D

in part-*.parquet files, uncompressed and without dictionaries (vectors get no smaller by either),
with space, entity, version and fingerprint in the schema's metadata.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.parquet import ParquetFile

from backstay.compat.maps import Vectors
from backstay.errors import InputError
from backstay.registry.table_layout import (
    ENTITY,
    FINGERPRINT,
    SPACE,
    VERSION,
    check_layout,
    labels_of,
    table_schema,
)
from backstay.storage.files import FileDigest, Files, open_files
from backstay.storage.ids import ID_TYPES, IdType
from backstay.storage.parquet_parts import open_part, part_batches, part_names

Float32 = npt.NDArray[np.float32]
Batch = tuple[pa.Array, Float32]
"""Ids (n,) and their vectors (n, D)."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingTable:
    """An opened table; its rows are read on demand. Can be pickled, for tasks of Ray."""

    space: str
    entity: str
    version: int
    dim: int
    rows: int
    id_type: IdType
    files: Files
    parts: tuple[str, ...]  # paths in `files`, in row order
    extra_columns: bool = False  # whether parts may hold more than id and embedding
    fingerprint: str | None = None  # of the build it is part of
    digests: tuple[FileDigest, ...] = ()  # of the parts, checked at reading; empty: not known

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of its rows, metadata included."""
        return table_schema(
            self.dim,
            self.id_type,
            space=self.space,
            entity=self.entity,
            version=self.version,
            fingerprint=self.fingerprint,
        )

    @property
    def paths(self) -> list[str]:
        """The parts as paths of `files.fs`, for readers of their own such as Ray Data."""
        return [self.files.full(part) for part in self.parts]

    def batches(self, batch_rows: int = 65536) -> Iterator[Batch]:
        """Ids (n,) and vectors (n, D) float32 of at most `batch_rows` rows, in row order.

        The vectors are views of what Parquet decoded. InputError where a part breaks the layout.
        """
        done = 0
        for part, digest in zip_longest(self.parts, self.digests):
            path = self.files.full(part)
            with open_part(self.files, part, digest=digest) as file:
                _check_part(file, self, path)
                columns = ["id", "embedding"]
                for batch in part_batches(file, batch_rows, columns=columns, path=path):
                    yield _columns(batch, self, part=path, first_row=done)
                    done += len(batch)

    def id_batches(self, batch_rows: int = 1 << 20) -> Iterator[pa.Array]:
        """The ids (n,) of at most `batch_rows` rows, in row order; vectors are not read."""
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


def record_batch(ids: pa.Array, values: Float32, *, schema: pa.Schema) -> pa.RecordBatch:
    """Rows of a table as an Arrow record batch that shares the memory of `values`.

    Args:
        ids: (n,) of the schema's id type.
        values: (n, D) float32, already checked by `check_batch`.
        schema: from `table_schema`.
    """
    flat = pa.array(np.asarray(values, order="C").reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type)
    return pa.record_batch([ids, column], schema=schema)


def open_table(
    path: str | Path,
    *,
    space: str | None = None,
    version: int | None = None,
    entity: str | None = None,
    extra_columns: bool = False,
    storage_options: Mapping[str, object] | None = None,
) -> EmbeddingTable:
    """Open a Parquet file, or a folder of them, that has the layout of a table.

    Args:
        path: A path or fsspec URL.
        space: The space the vectors must live in; needed if the table has no label of it.
        version: The version they must have; needed if the table has no label of it.
        entity: The entity of the ids; by default the table's label, else the file's name.
        extra_columns: Whether to allow columns beside id and embedding; reading leaves them out.
        storage_options: For the fsspec file system.

    Raises:
        InputError: The layout is another, or the table is labelled with another space or version.
    """
    files = open_files(path, storage_options=storage_options)
    parts = part_names(files)
    if not parts:
        raise InputError(
            f"{path} holds no table: expected a Parquet file, or a folder of *.parquet files."
        )
    return open_parts(
        files, parts, space=space, version=version, entity=entity, extra_columns=extra_columns
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
    """`open_table` for given files: reads their footers, no rows."""
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


def check_batch(ids: pa.Array, values: Float32, *, schema: pa.Schema, first_row: int) -> None:
    """Refuse a batch that can't be rows of a table.

    Args:
        ids: (n,) of the schema's id type, none of them null.
        values: (n, D) float32, finite.
        schema: from `table_schema`.
        first_row: number of the first row, for messages.

    Raises:
        InputError: names the row, and the id, of a null id or a vector that is not finite.
    """
    id_type, dim = schema.field("id").type, schema.field("embedding").type.list_size
    if ids.type != id_type:
        raise InputError(f"ids must stay {id_type} throughout a table; found {ids.type}.")
    if values.dtype != np.float32 or values.shape != (len(ids), dim):
        raise InputError(
            f"expected float32 vectors of shape {(len(ids), dim)}, one per id; "
            f"found {values.dtype} of shape {values.shape}."
        )
    if ids.null_count:
        row = int(np.flatnonzero(pc.is_null(ids).to_numpy(zero_copy_only=False))[0])
        raise InputError(f"row {first_row + row} has no id (null); give it one or leave it out.")
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise InputError(
            f"row {first_row + row}, id {ids[row].as_py()!r}: the vector isn't finite (NaN or "
            "infinity); leave the row out or check the model."
        )


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
    id_type, dim = check_layout(file.schema_arrow, path, extra_columns=extra_columns)
    labels = labels_of(file, path)
    space, version, entity = given
    if space is None:
        space = labels.get(SPACE)
    if version is None and VERSION in labels:
        if not labels[VERSION].isdecimal():
            raise InputError(
                f"{path} is labelled version {labels[VERSION]!r}; expected a number. Write the "
                "table anew."
            )
        version = int(labels[VERSION])
    if entity is None:
        entity = labels.get(ENTITY, Path(path).stem)
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
        files=files,
        parts=parts,
        extra_columns=extra_columns,
        fingerprint=labels.get(FINGERPRINT),
    )


def _check_part(file: ParquetFile, table: EmbeddingTable, path: str) -> None:
    id_type, dim = check_layout(file.schema_arrow, path, extra_columns=table.extra_columns)
    if (id_type, dim) != (table.id_type, table.dim):
        raise InputError(
            f"{path} holds {id_type} ids and dimension {dim}; the table has {table.id_type} and "
            f"{table.dim}."
        )
    labels = labels_of(file, path)
    expected = {
        SPACE: table.space,
        VERSION: str(table.version),
        ENTITY: table.entity,
        FINGERPRINT: table.fingerprint,
    }
    for key, value in expected.items():
        found = labels.get(key, value)
        if value is not None and found != value:
            what = key.decode().removeprefix("backstay.")
            raise InputError(
                f"{path} is labelled {what} {found}; expected {what} {value}. Vectors of different "
                "versions can't be mixed: pick the right table, or convert it first."
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
    return ids, flat.to_numpy(zero_copy_only=True).reshape(-1, table.dim)
