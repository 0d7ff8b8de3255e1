"""Local copies of embedding tables and backward maps: how they are written and opened.

    vectors.npy   (rows, D) float32, in the table's row order
    ids.arrow     id sorted, row int64

    matrix.npy    (D_target, D_source) float32

Opening the copy of a table takes milliseconds and no memory: the system loads pages when they are
read, and processes that serve the same table share them. Making one holds the ids in memory, but
not the vectors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backstay.compat.maps import BackwardMap
from backstay.errors import BackstayError, CorruptError
from backstay.registry.store import Registry, Space
from backstay.serving.cache import Copy, copy_name, discard, open_copy, require_space
from backstay.serving.mapped import INDEX_TYPES, MappedTable
from backstay.serving.sharding import Shard

if TYPE_CHECKING:
    from backstay.registry.tables import EmbeddingTable

VECTORS = "vectors.npy"
"""The file of a copy that holds its vectors."""

HEADER_BYTES = 128
"""The bytes of `VECTORS` before the first vector."""

_IDS, _MATRIX = "ids.arrow", "matrix.npy"
_MAPS = ".maps"  # no entity has a name with a dot in front


class Key(NamedTuple):
    """What is copied: the table of an entity, or a backward map with an empty `entity`."""

    space: str
    entity: str
    version: int
    manifest_sha256: str

    def folder(self, cache: Path) -> Path:
        """The folder of the copy in `cache`, the cache of one registry."""
        name = copy_name(self.version, self.manifest_sha256)
        return cache / self.space / (self.entity or _MAPS) / name

    def __str__(self) -> str:
        what = f"the table of {self.entity!r}" if self.entity else "the backward map"
        return f"{what} of space {self.space!r} version {self.version}"


@dataclass(frozen=True)
class OpenTable:
    """A table whose copy is open. A table that shards hold has no copy here, and no rows."""

    table: MappedTable
    copy: Copy | None

    def intact(self) -> bool:
        """Whether the files were not written to since they were opened."""
        return self.copy is None or self.copy.intact()


def open_table_copy(
    registry: Registry, key: Key, *, cache: Path, shard: Shard | None = None
) -> OpenTable:
    """Open the copy of a table; make it first if needed, see `cache.open_copy`.

    `shard`: the part of the rows to copy; None: all. Raises CorruptError if the table differs from
    its manifest or holds a NaN.
    """

    def write(folder: Path) -> None:
        try:
            table = _checked(registry, key).table(key.version, key.entity)
            _write_table(table, folder, shard)
        finally:
            pa.default_memory_pool().release_unused()  # Arrow would keep several times the table

    copy = open_copy(key.folder(cache), write)
    with discarding(copy):
        return OpenTable(_open_table(copy.folder), copy)


def open_map_copy(registry: Registry, key: Key, *, cache: Path) -> BackwardMap:
    """B_version, from its copy; make the copy first if needed."""

    def write(folder: Path) -> None:
        np.save(folder / _MATRIX, _checked(registry, key).backward_map(key.version).matrix)

    copy = open_copy(key.folder(cache), write)
    with discarding(copy):
        matrix = np.load(copy.folder / _MATRIX, allow_pickle=False)
        return BackwardMap(key.space, key.version, key.version - 1, matrix)


@contextmanager
def discarding(copy: Copy) -> Iterator[None]:
    """Throw away a copy that can't be opened though sizes and times are right: a bad disk."""
    try:
        yield
    except (BackstayError, LookupError, OSError, ValueError) as error:
        discard(copy.folder)
        raise CorruptError(
            f"{copy.folder} can't be opened ({error}). It is thrown away, and fetched again."
        ) from error


def _checked(registry: Registry, key: Key) -> Space:
    """The space, once it is certain that the version is still the build that `key` names."""
    space = registry.space(key.space)
    found = space.manifest(key.version).sha256
    if found != key.manifest_sha256:
        raise CorruptError(
            f"version {key.version} of space {key.space!r} should have a manifest with SHA-256 "
            f"{key.manifest_sha256}; found {found}. It was replaced: publish another number."
        )
    return space


def _open_table(folder: Path) -> MappedTable:
    vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    index = pa.ipc.open_file(pa.memory_map(str(folder / _IDS))).read_all()
    id_type = index.schema.field("id").type
    ids, rows = (
        _one_chunk(index.column(name), type_)
        for name, type_ in (("id", id_type), ("row", pa.int64()))
    )
    return MappedTable(ids, rows.to_numpy(), vectors)


def write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    """Begin a file of vectors; the rows follow as little-endian float32."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )


def _write_table(table: "EmbeddingTable", folder: Path, shard: Shard | None) -> None:
    require_space(folder, 4 * table.rows * table.dim // (shard.of if shard else 1))
    id_type = INDEX_TYPES[table.id_type]
    chunks, read = [], 0
    with (folder / VECTORS).open("wb") as file:
        write_header(file, (table.rows, table.dim))
        for ids, values in table.batches():
            read += len(ids)
            if not np.isfinite(values).all():
                raise CorruptError(
                    f"{table} holds a vector with a NaN or an infinity, which the service refuses. "
                    "Publish a version without it."
                )
            ids = ids.cast(id_type)  # noqa: PLW2901
            if shard and not ids.null_count:
                own = shard.holds(ids if id_type != pa.int64() else ids.to_numpy())
                ids, values = ids.filter(pa.array(own)), values[own]  # noqa: PLW2901
            file.write(np.ascontiguousarray(values, "<f4").data)
            chunks.append(ids)
        ids = _one_chunk(pa.chunked_array(chunks, id_type), id_type)
        if shard:
            file.seek(0)
            write_header(file, (len(ids), table.dim))
    if read != table.rows or ids.null_count:
        raise CorruptError(
            f"{table} must hold {table.rows} ids; found {read}, {ids.null_count} of them null. "
            "Check the version with `backstay verify`."
        )
    order = pc.sort_indices(ids)
    ids = ids.take(order)
    twice = pc.equal(ids[1:], ids[:-1])
    if pc.any(twice).as_py():
        raise CorruptError(
            f"{table} holds id {ids[1:].filter(twice)[0].as_py()!r} more than once; a "
            "look-up needs one vector per id. Publish a version that holds it once."
        )
    index = pa.table({"id": ids, "row": order.cast(pa.int64())})
    with pa.ipc.new_file(str(folder / _IDS), index.schema) as writer:
        writer.write_table(index)


def _one_chunk(column: pa.ChunkedArray, id_type: pa.DataType) -> pa.Array:
    # A single chunk is returned without a copy, so that it stays a memory map.
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], id_type)
