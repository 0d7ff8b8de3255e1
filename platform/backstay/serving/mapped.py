"""An embedding table on local disk, mapped into memory and searched by id.

A table is copied once from the registry to a cache folder, which replicas and restarts share:

    <cache>/<root>/<space>/<entity>/<version>-<manifest hash>/vectors.npy   (rows, D) float32
                                                              /ids.arrow     id sorted, row int64

Opening the copy takes milliseconds and no memory: the system loads pages when they are read, and
processes that serve the same table share them.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backstay.errors import CorruptError
from backstay.storage.folders import new_folder, remove_abandoned
from backstay.storage.ids import IdType
from backstay.storage.locks import locked

if TYPE_CHECKING:
    from backstay.registry.tables import EmbeddingTable

FORMAT = 1
"""Version of the cache's format. Each format has its own folders."""

INDEX_TYPES: dict[IdType, pa.DataType] = {"int64": pa.int64(), "string": pa.large_string()}
"""The Arrow types of ids in the index: strings of any total length."""

_VECTORS = "vectors.npy"
_IDS = "ids.arrow"


@dataclass(frozen=True)
class MappedTable:
    """A table with look-up by id. All arrays are read-only memory maps."""

    sorted_ids: pa.Array  # (rows,) ascending, distinct, of a type in INDEX_TYPES
    rows: npt.NDArray[np.int64]  # (rows,): the row of `vectors` for each sorted id
    vectors: npt.NDArray[np.float32]  # (rows, D)

    @property
    def dim(self) -> int:
        """The dimension D of the table."""
        return int(self.vectors.shape[1])

    def find(self, ids: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Find ids by binary search: rows of those found, in request order, and a mask (n,).

        `ids`: (n,) of the type of `sorted_ids`, without nulls. The mask is True for ids found.
        """
        if not len(self.sorted_ids):
            return np.empty(0, np.int64), np.zeros(len(ids), bool)
        at = pc.search_sorted(self.sorted_ids, ids).to_numpy()
        at = np.minimum(at, len(self.sorted_ids) - 1)
        equal = pc.equal(self.sorted_ids.take(pa.array(at)), ids)
        found = equal.to_numpy(zero_copy_only=False)
        return self.rows[at[found]], found

    def gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """A copy of these rows, (n, D)."""
        return self.vectors[rows]


def open_cached(
    table: "EmbeddingTable", *, folder: Path, version: int, manifest_hash: str
) -> MappedTable:
    """Open the copy of a table in `folder`, one entity's cache; make the copy first if needed.

    If several processes ask for the same table, one copies it and the others wait. A copy appears
    complete or not at all. This removes incomplete copies of killed processes, and copies of older
    versions; a process that has one open can read it until it closes it.
    Raises CorruptError if the table differs from its manifest or holds a NaN.
    """
    name = f"{version}-{manifest_hash[:32]}.f{FORMAT}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        if not (folder / name).is_dir():
            remove_abandoned(folder)
            with new_folder(folder / name) as new:
                _copy(table, new)
        opened = _open(folder / name)
        for entry in folder.iterdir():
            number, _, rest = entry.name.partition("-")
            if rest and entry.name != name and number.isdigit() and int(number) <= version:
                shutil.rmtree(entry, ignore_errors=True)
    return opened


def _open(folder: Path) -> MappedTable:
    vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
    index = pa.ipc.open_file(pa.memory_map(str(folder / _IDS))).read_all()
    id_type = index.schema.field("id").type
    columns = [_one_chunk(index.column(name), type_) for name, type_ in
               (("id", id_type), ("row", pa.int64()))]  # fmt: skip
    return MappedTable(columns[0], columns[1].to_numpy(), vectors)


def _copy(table: "EmbeddingTable", folder: Path) -> None:
    id_type = INDEX_TYPES[table.id_type]
    chunks = []
    with (folder / _VECTORS).open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (table.rows, table.dim)}
        )
        for ids, values in table.batches():
            if not np.isfinite(values).all():
                raise CorruptError(
                    f"{table} holds a vector with a NaN or an infinity, which the service refuses. "
                    "Publish a version without it."
                )
            file.write(np.ascontiguousarray(values, "<f4").data)
            chunks.append(ids.cast(id_type))
    ids = _one_chunk(pa.chunked_array(chunks, id_type), id_type)
    if len(ids) != table.rows or ids.null_count:
        raise CorruptError(
            f"{table} must hold {table.rows} ids; found {len(ids)}, {ids.null_count} of them null. "
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
