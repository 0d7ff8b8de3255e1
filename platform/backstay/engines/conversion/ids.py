"""Finding ids that stand in two rows, before any row is converted."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.engines.conversion.input import ConvertInput
from backstay.engines.conversion.vectors import is_null
from backstay.storage.ids import ID_TYPES, Keys, id_keys
from backstay.storage.parquet_parts import open_part

KEYS_AT_ONCE = 32 << 20
"""Keys of 8 bytes compared in one pass over the ids; a longer table takes more passes."""

_BATCH_ROWS = 1 << 16
_READ_AHEAD = 8 << 20  # bytes

Rows = npt.NDArray[np.int64]


def repeated_ids(table: ConvertInput) -> tuple[Rows, Rows]:
    """The rows whose id stands in an earlier row, ascending; and for each the first such row.

    Rows without an id, and those that can't be read, are left out.
    """
    passes = -(-max(1, table.rows) // KEYS_AT_ONCE)
    twins = [_twins(table, number, passes) for number in range(passes)]
    suspects = np.unique(np.concatenate(twins))
    repeated: list[tuple[int, int]] = []
    if len(suspects):
        first: dict[object, int] = {}
        for rows, ids, keys in _ids(table):
            for at in np.flatnonzero(np.isin(keys, suspects)).tolist():
                id_, row = ids[at].as_py(), int(rows[at])
                if id_ in first:
                    repeated.append((row, first[id_]))
                first.setdefault(id_, row)
    found = np.array(repeated, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _twins(table: ConvertInput, number: int, passes: int) -> Keys:
    """The keys, among those of this pass, that two rows share."""
    parts = [keys[keys % passes == number] if passes > 1 else keys for _, _, keys in _ids(table)]
    keys = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    parts.clear()
    keys.sort()
    return np.unique(keys[1:][keys[1:] == keys[:-1]])


def _ids(table: ConvertInput) -> Iterator[tuple[Rows, pa.Array, Keys]]:
    """Row numbers (n,), ids (n,) that aren't null, and keys (n,), in row order."""
    by_file: dict[str, list[tuple[int, int, int]]] = {}
    for group in table.groups:
        by_file.setdefault(group.path, []).append((group.index, group.first_row, group.rows))
    for path, all_groups in by_file.items():
        groups = all_groups
        with open_part(table.files, path, read_ahead=_READ_AHEAD) as file:
            while groups:
                row = groups[0][1]
                try:
                    for batch in file.iter_batches(
                        _BATCH_ROWS, row_groups=[g[0] for g in groups], columns=[table.id_column]
                    ):
                        yield _keyed(batch.column(0), row, table)
                        row += len(batch)
                    break
                except (pa.ArrowException, OSError) as error:
                    if isinstance(error, OSError) and error.errno is not None:
                        raise
                groups = [group for group in groups if group[1] > row]  # after the corrupt one


def _keyed(ids: pa.Array, first_row: int, table: ConvertInput) -> tuple[Rows, pa.Array, Keys]:
    rows = first_row + np.flatnonzero(~unusable(ids))
    ids = ids.take(pa.array(rows - first_row)) if len(rows) < len(ids) else ids
    ids = ids.cast(ID_TYPES[table.id_type])
    return rows, ids, id_keys(ids)


def unusable(ids: pa.Array) -> npt.NDArray[np.bool_]:
    """Which ids are null or don't fit int64, (n,)."""
    mask = is_null(ids)
    if ids.type == pa.uint64():
        mask = mask | (ids.fill_null(0).to_numpy(zero_copy_only=False) > np.iinfo(np.int64).max)
    return mask
