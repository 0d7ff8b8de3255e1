"""Tables from anywhere, read in batches: Parquet, Arrow files, and NumPy arrays with ids."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backstay.errors import InputError
from backstay.evaluation.table_maps.outside_tables import batch_vectors, open_outside_table
from backstay.registry.labels import Labels
from backstay.registry.table_commit import read_commit
from backstay.registry.tables import Batch
from backstay.storage.files import open_files
from backstay.storage.ids import ID_TYPES, IdType
from backstay.storage.parquet_parts import open_part, part_names

_ROWS = 1 << 16
_INTEGER = r"^(0|-?[1-9][0-9]*)$"
_NUMPY, _ARROW = ".npy", {".arrow", ".feather", ".ipc"}


def read_source(path: str, ids: Path | None, id_type: IdType | None = None) -> Iterator[Batch]:
    """The rows of a table in batches: ids, string or int64, and float32 vectors.

    Args:
        path: *.npy, *.arrow or *.feather; anything else is Parquet, a file, a folder or a URL.
        ids: For *.npy alone: a *.npy of ids, or a text file with one id a line.
        id_type: What ids become; None: integers stay integers, and the rest is text.

    Raises InputError where the table breaks its format, or an id is no integer and must be one.
    """
    done = 0
    for column, values in _read(path, ids):
        yield _ids(column, path, id_type, first_row=done), values
        done += len(column)


def _read(path: str, ids: Path | None) -> Iterator[Batch]:
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
    yield from open_outside_table(path).batches()


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
                yield batch.column("id"), values
                done += len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is no whole Arrow file ({error}).") from error


def _from_numpy(path: Path, ids_path: Path) -> Iterator[Batch]:
    values = _load(path)
    if values.ndim != 2 or values.dtype.kind != "f":  # noqa: PLR2004
        raise InputError(
            f"{path} must hold floats of shape (n, D); found {values.dtype} {values.shape}."
        )
    ids = _numpy_ids if ids_path.suffix == _NUMPY else _text_ids
    rows = sum(map(len, ids(ids_path)))
    if rows != len(values):
        raise InputError(
            f"{ids_path} must hold one id for each of the {len(values)} vectors of {path}; found "
            f"{rows}."
        )
    start = 0
    for block in ids(ids_path):
        yield block, values[start : start + len(block)].astype(np.float32)
        start += len(block)


def _numpy_ids(path: Path) -> Iterator[pa.Array]:
    loaded = _load(path)
    kinds = {"i": pa.int64(), "u": pa.int64(), "U": pa.string()}
    if loaded.ndim != 1 or loaded.dtype.kind not in kinds:
        raise InputError(
            f"{path} must hold integers or text of shape (n,); found {loaded.dtype} {loaded.shape}."
        )
    for start in range(0, max(1, len(loaded)), _ROWS):
        yield pa.array(loaded[start : start + _ROWS].tolist(), kinds[loaded.dtype.kind])


def _text_ids(path: Path) -> Iterator[pa.Array]:
    try:
        with path.open(encoding="utf-8") as file:
            lines = (line.rstrip("\n") for line in file)
            yield pa.array(list(islice(lines, _ROWS)), pa.string())
            while block := list(islice(lines, _ROWS)):
                yield pa.array(block, pa.string())
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} must be a *.npy or UTF-8 text with one id a line ({error})."
        ) from error


def _load(path: Path) -> npt.NDArray[np.generic]:
    try:
        array: npt.NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no NumPy file without objects ({error}).") from error
    return array


def _ids(column: pa.Array, path: str, id_type: IdType | None, *, first_row: int) -> pa.Array:
    """The ids (n,) of a batch in the wanted type."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_integer = pa.types.is_integer(column.type)
    try:
        if id_type == "int64" and not is_integer:
            return _integers(column.cast(pa.string()), path, first_row=first_row)
        return column.cast(ID_TYPES[id_type or ("int64" if is_integer else "string")])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{path} must hold id as string or integer ({error}).") from error


def _integers(texts: pa.StringArray, path: str, *, first_row: int) -> pa.Array:
    """The texts (n,) as integers. They must be written as integers are, so that none changes."""
    plain = pc.fill_null(pc.match_substring_regex(texts, _INTEGER), fill_value=True)
    if pc.all(plain, min_count=0).as_py():
        return texts.cast(pa.int64())
    row = int(np.argmin(plain.to_numpy(zero_copy_only=False)))
    raise InputError(
        f"{path}: row {first_row + row}: --id-type int64 expects an id such as 17, without a sign "
        f"+, a space or a leading zero; found {texts[row].as_py()!r}. Correct it, or give "
        "--id-type string."
    )
