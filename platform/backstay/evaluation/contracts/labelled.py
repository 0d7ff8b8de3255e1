"""The labelled table of a contract: ids or pairs of ids, with labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from backstay.errors import InputError
from backstay.storage.ids import ID_TYPES, IdType

PAIR = ("user", "item")


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """The rows of a labelled table."""

    ids: dict[str, pa.Array]  # entity -> its id in every row; two entities for pairs
    labels: npt.NDArray[np.float64] | None  # (n,)
    reference: npt.NDArray[np.float32] | None = None  # (n, D) vectors when the contract was made

    def __len__(self) -> int:
        return len(next(iter(self.ids.values())))

    def to_bytes(self) -> bytes:
        """The rows as a Parquet file."""
        columns = dict(self.ids)
        if self.labels is not None:
            columns["label"] = pa.array(self.labels)
        if self.reference is not None:
            flat = pa.array(self.reference.reshape(-1))
            dim = self.reference.shape[1]
            columns["reference"] = pa.FixedSizeListArray.from_arrays(flat, dim)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, write_page_checksum=True)
        return bytes(sink.getvalue().to_pybytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> "Labelled":
        """The rows of a file that `to_bytes` made."""
        # Without threads of Arrow: one that still held `data` at exit would abort the process.
        with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
            table = file.read(use_threads=False).combine_chunks()
        own = {"label", "reference"}
        ids = {name: _whole(table[name]) for name in table.column_names if name not in own}
        labels = reference = None
        if "label" in table.column_names:
            labels = table["label"].to_numpy().astype(np.float64)
        if "reference" in table.column_names:
            column = _whole(table["reference"])
            flat = column.flatten().to_numpy().astype(np.float32)
            reference = flat.reshape(len(column), column.type.list_size)
        return cls(ids=ids, labels=labels, reference=reference)


def read_labelled(path: Path, *, entity: str | None, id_types: dict[str, IdType]) -> Labelled:
    """Read a labelled table: Parquet, or CSV with a header.

    Args:
        path: The file, with columns id and label, or user, item and label. Labels may be missing.
        entity: The entity of the column id.
        id_types: The id type of every entity of the space.

    Raises:
        InputError: A column is missing, of another type, or has nulls; or there is no row.
    """
    try:
        if path.suffix == ".csv":
            # Ids are read as text: 007 stays 007 for string ids.
            options = pa.csv.ConvertOptions(
                column_types=dict.fromkeys(("id", *PAIR), pa.string()), strings_can_be_null=True
            )
            table = pa.csv.read_csv(path, convert_options=options)
        else:
            table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is no Parquet or CSV table ({error}).") from error
    names = set(table.column_names)
    if {*PAIR} <= names:
        columns = {name: name for name in PAIR}
    elif "id" in names:
        columns = {_one_entity(entity, id_types): "id"}
    else:
        raise InputError(
            f"{path} must have a column id, or the columns user and item; found "
            f"{', '.join(table.column_names)}."
        )
    if not len(table):
        raise InputError(f"{path} has no rows; expected at least one labelled id.")
    ids = {
        name: _ids(table[column], name, id_types=id_types, path=path)
        for name, column in columns.items()
    }
    return Labelled(ids=ids, labels=_labels(table, path) if "label" in names else None)


def _one_entity(entity: str | None, id_types: dict[str, IdType]) -> str:
    if entity is None and len(id_types) == 1:
        return next(iter(id_types))
    if entity not in id_types:
        raise InputError(
            f"--entity must name the entity of the column id, one of {', '.join(id_types)}; found "
            f"{entity or 'none'}."
        )
    return entity


def _ids(
    column: pa.ChunkedArray, entity: str, *, id_types: dict[str, IdType], path: Path
) -> pa.Array:
    if entity not in id_types:
        raise InputError(
            f"{path} names ids of {entity}; the space has tables of {', '.join(id_types)}."
        )
    if column.null_count:
        raise InputError(f"{path} has a row without an id of {entity} (null); leave it out.")
    try:
        return _whole(column.cast(ID_TYPES[id_types[entity]]))
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path}: expected ids of {entity} as {id_types[entity]}; {error}."
        ) from error


def _labels(table: pa.Table, path: Path) -> npt.NDArray[np.float64]:
    try:
        labels = table["label"].cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{path}: expected labels that are numbers; {error}.") from error
    if not np.isfinite(labels).all():
        row = int(np.argmin(np.isfinite(labels)))
        raise InputError(f"{path}: row {row} has no finite label; give it one or leave it out.")
    return np.asarray(labels, np.float64)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
