"""Finding ids that stand in two rows."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Lock

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.engines.conversion.input import ConvertInput, RowGroup
from backstay.engines.conversion.vectors import is_null
from backstay.storage.ids import ID_TYPES, Keys, id_keys, key_shares
from backstay.storage.parquet_parts import open_part

KEYS_AT_ONCE = 32 << 20
"""Keys of 8 bytes compared in one pass over the ids; a longer table takes more passes."""

_READERS = 4  # threads that read ids
_CHUNK_ROWS = 2 << 20  # read by one thread, or one row group
_BATCH_ROWS = 1 << 16
_READ_AHEAD = 8 << 20  # bytes

Rows = npt.NDArray[np.int64]
Repeated = tuple[Rows, Rows]
"""The rows whose id stands in an earlier row, ascending; and for each the first such row."""

NONE_REPEATED: Repeated = (np.zeros(0, np.int64), np.zeros(0, np.int64))

Take = Callable[[Rows, pa.Array, Keys], None]
"""Takes in the row numbers (n,), ids (n,) and keys (n,) of a batch; called by several threads."""


@contextmanager
def ids_check(table: ConvertInput) -> Iterator[Future[Repeated]]:
    """Begin `repeated_ids` in a thread; it is stopped at the end of the block."""
    stop = Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(repeated_ids, table, stopped=stop.is_set)
        finally:
            stop.set()


def repeated_ids(table: ConvertInput, *, stopped: Callable[[], bool] = lambda: False) -> Repeated:
    """Find the rows whose id stands in an earlier row.

    Rows without an id, and those that can't be read, are left out. Holds at most `KEYS_AT_ONCE`
    keys, and the ids that are repeated.
    """
    passes = -(-max(1, table.rows) // KEYS_AT_ONCE)
    twins = [_twins(table, number, passes, stopped) for number in range(passes)]
    suspects = np.unique(np.concatenate(twins))
    found: list[tuple[int, object]] = []

    def take(rows: Rows, ids: pa.Array, keys: Keys) -> None:
        at = np.flatnonzero(np.isin(keys, suspects))
        found.extend(list(zip(rows[at].tolist(), ids.take(pa.array(at)).to_pylist(), strict=True)))

    if len(suspects):
        _scan(table, take, stopped)
    first: dict[object, int] = {}
    repeated = [
        (row, first[id_])
        for row, id_ in sorted(found, key=lambda pair: pair[0])
        if first.setdefault(id_, row) != row
    ]
    rows = np.array(repeated, np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _twins(table: ConvertInput, number: int, passes: int, stopped: Callable[[], bool]) -> Keys:
    """The keys, among those of this pass, that two rows share."""
    kept = np.empty(-(-table.rows // passes), np.uint64)
    count = 0
    lock = Lock()

    def take(rows: Rows, ids: pa.Array, keys: Keys) -> None:
        nonlocal count
        del rows, ids
        keys = keys.view(np.uint64)
        if passes > 1:
            keys = keys[key_shares(keys, passes) == number]
        with lock:
            end = count + len(keys)
            if end > len(kept):
                kept.resize(end + len(kept) // 8, refcheck=False)
            kept[count:end] = keys
            count = end

    _scan(table, take, stopped)
    keys = kept[:count]
    keys.sort()
    return np.unique(keys[1:][keys[1:] == keys[:-1]])


def _scan(table: ConvertInput, take: Take, stopped: Callable[[], bool]) -> None:
    """Give all usable ids to `take`, batch by batch in any order."""

    def read(groups: Sequence[RowGroup]) -> None:
        for ids, first_row in _ids(table, groups):
            if stopped():
                return
            rows = first_row + np.flatnonzero(~unusable(ids))
            usable = ids.take(pa.array(rows - first_row)) if len(rows) < len(ids) else ids
            usable = usable.cast(ID_TYPES[table.id_type])
            take(rows, usable, id_keys(usable))

    with ThreadPoolExecutor(_READERS) as pool:
        for _ in pool.map(read, _chunks(table.groups)):
            pass


def _chunks(groups: Sequence[RowGroup]) -> Iterator[list[RowGroup]]:
    """Consecutive row groups of a file, together at most `_CHUNK_ROWS` rows if they are several."""
    chunk: list[RowGroup] = []
    for group in groups:
        rows = sum(each.rows for each in chunk) + group.rows
        if chunk and (group.path != chunk[0].path or rows > _CHUNK_ROWS):
            yield chunk
            chunk = []
        chunk.append(group)
    if chunk:
        yield chunk


def _ids(table: ConvertInput, groups: Sequence[RowGroup]) -> Iterator[tuple[pa.Array, int]]:
    """Ids (n,) and the number of the first row of each batch; a corrupt row group ends early."""
    path = groups[0].path
    with open_part(table.files, path, read_ahead=_READ_AHEAD) as file:
        while groups:
            row = groups[0].first_row
            base_row = table.base_row(path, groups[0].index)
            try:
                for batch in file.iter_batches(
                    _BATCH_ROWS,
                    row_groups=[group.index for group in groups],
                    columns=[table.id_column],
                    use_threads=False,
                ):
                    ids = batch.column(0)
                    if base_row is not None and table.overlay is not None:
                        kept = table.overlay.kept(base_row, len(batch))
                        ids = ids if kept is None else ids.filter(pa.array(kept))
                        base_row += len(batch)
                    yield ids, row
                    row += len(ids)
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
            else:
                return
            groups = [group for group in groups if group.first_row > row]  # after the corrupt one


def unusable(ids: pa.Array) -> npt.NDArray[np.bool_]:
    """Which ids are null or don't fit int64, (n,)."""
    mask = is_null(ids)
    if ids.type == pa.uint64():
        mask = mask | (ids.fill_null(0).to_numpy(zero_copy_only=False) > np.iinfo(np.int64).max)
    return mask
