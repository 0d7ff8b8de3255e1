"""Tables from anywhere, read in batches: Parquet, Arrow files, and NumPy arrays with ids."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.errors import InputError
from backstay.evaluation.table_maps.outside_tables import batch_vectors, open_outside_table
from backstay.registry.labels import Labels
from backstay.registry.table_commit import read_commit
from backstay.registry.tables import Batch
from backstay.storage.files import open_files
from backstay.storage.ids import ID_TYPES
from backstay.storage.parquet_parts import open_part, part_names

_ROWS = 1 << 16
_NUMPY, _ARROW = ".npy", {".arrow", ".feather", ".ipc"}


def read_source(path: str, ids: Path | None) -> Iterator[Batch]:
    """The rows of a table in batches: ids, string or int64, and float32 vectors.

    Args:
        path: *.npy, *.arrow or *.feather; anything else is Parquet, a file, a folder or a URL.
        ids: For *.npy alone: a *.npy of ids, or a text file with one id a line.

    Raises InputError where the table breaks its format.
    """
    suffix = Path(path).suffix
    if (ids is not None) != (suffix == _NUMPY):
        raise InputError(
            f"--ids goes with a table *.npy, which holds vectors alone; found the table {path} and "
            f"{ids or 'no ids'}."
        )
    if ids is not None:
        return _from_numpy(Path(path), ids)
    if suffix in _ARROW:
        return _from_arrow(Path(path))
    return _from_parquet(path)


def source_labels(path: str) -> Labels | None:
    """The labels of a Parquet table; None for other files, and for a table without parts."""
    if Path(path).suffix in {_NUMPY, *_ARROW}:
        return None
    files = open_files(path)
    commit = read_commit(files)
    if commit is not None:
        return Labels(
            path=path,
            space=commit.space,
            entity=commit.entity,
            version=commit.version,
            fingerprint=commit.fingerprint,
        )
    if not files.fs.exists(files.root) or not (parts := part_names(files)):
        return None  # refused with its reason when it is read
    with open_part(files, parts[0]) as file:
        return replace(Labels.of(file.schema_arrow, files.full(parts[0])), path=path)


def _from_parquet(path: str) -> Iterator[Batch]:
    for ids, values in open_outside_table(path).batches():
        yield _ids(ids, path), values


def _from_arrow(path: Path) -> Iterator[Batch]:
    try:
        with pa.memory_map(str(path)) as source:
            try:
                reader = pa.ipc.open_file(source)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            except pa.ArrowInvalid:  # a stream, not a file
                source.seek(0)
                batches = iter(pa.ipc.open_stream(source))
            done, dim = 0, None
            for batch in batches:
                if not {"id", "embedding"} <= set(batch.schema.names):
                    raise InputError(
                        f"{path} must have the columns id and embedding; found "
                        f"{', '.join(batch.schema.names)}."
                    )
                if dim is None and len(batch):
                    dim = len(batch.column("embedding")[0].as_py() or ())
                values = batch_vectors(batch, str(path), dim=dim or 1, first_row=done)
                yield _ids(batch.column("id"), str(path)), values
                done += len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is no whole Arrow file ({error}).") from error


def _from_numpy(path: Path, ids_path: Path) -> Iterator[Batch]:
    values = _load(path, mapped=True)
    if values.ndim != 2 or values.dtype.kind != "f":  # noqa: PLR2004
        raise InputError(
            f"{path} must hold floats of shape (n, D); found {values.dtype} {values.shape}."
        )
    if ids_path.suffix == ".npy":
        loaded = _load(ids_path, mapped=False)
        kinds = {"i": pa.int64(), "u": pa.int64(), "U": pa.string()}
        if loaded.dtype.kind not in kinds:
            raise InputError(f"{ids_path} must hold integers or text; found {loaded.dtype}.")
        ids = pa.array(loaded.tolist(), kinds[loaded.dtype.kind])
    else:
        ids = pa.array(ids_path.read_text(encoding="utf-8").splitlines(), pa.string())
    if len(ids) != len(values):
        raise InputError(
            f"{ids_path} must hold one id for each of the {len(values)} vectors of {path}; found "
            f"{len(ids)}."
        )
    for start in range(0, max(1, len(values)), _ROWS):
        block = slice(start, start + _ROWS)
        yield ids[block], values[block].astype(np.float32)


def _load(path: Path, *, mapped: bool) -> npt.NDArray[np.generic]:
    try:
        array: npt.NDArray[np.generic] = np.load(
            path, mmap_mode="r" if mapped else None, allow_pickle=False
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no NumPy file without objects ({error}).") from error
    return array


def _ids(column: pa.Array, path: str) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    wanted = ID_TYPES["int64" if pa.types.is_integer(column.type) else "string"]
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{path} must hold id as string or integer ({error}).") from error
