"""64-bit keys of a table's rows, on local disk: finding repeated, common and missing ids.

Memory holds a share of the keys at once, whatever the number of rows.
"""

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from tempfile import SpooledTemporaryFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.errors import InputError
from backstay.storage.ids import Keys, id_keys, key_shares

KEYS_AT_ONCE = 2 << 20
"""Keys that are sorted at once; each further share of a longer table reads its file again."""

_CHUNK_ROWS = 1 << 18
_EXAMPLES = 3  # ids that a message names
_IN_MEMORY = 1 << 20  # bytes up to which nothing is written to disk

Rows = npt.NDArray[np.int64]


class KeyFile:
    """One key a row, equal for equal ids, in row order. The file is gone with the object."""

    def __init__(self) -> None:
        self.rows = 0
        self._file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed with the object
        weakref.finalize(self, self._file.close)

    def append(self, keys: Keys) -> None:
        """Add the keys (n,) of the next rows."""
        self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(keys).tobytes())
        self.rows += len(keys)

    def read(self, first_row: int, rows: int) -> npt.NDArray[np.uint64]:
        """The keys of at most `rows` rows from `first_row` on; read-only."""
        self._file.seek(8 * first_row)
        return np.frombuffer(self._file.read(8 * rows), np.uint64)

    def share(self, number: int, shares: int) -> tuple[npt.NDArray[np.uint64], Rows]:
        """The keys (n,) of one of `shares` about equal shares, increasing, and their rows (n,).

        Equal keys are in the same share of every file. A share has at most twice `KEYS_AT_ONCE`
        keys; beyond that it is cut off, which happens only where keys repeat.
        """
        keys, rows, count = [], [], 0
        for start in range(0, self.rows, _CHUNK_ROWS):
            chunk = self.read(start, _CHUNK_ROWS)
            at = np.arange(len(chunk))
            if shares > 1:
                at = np.flatnonzero(key_shares(chunk, shares) == number)
            keys.append(chunk[at])
            rows.append(start + at)
            count += len(at)
            if count > 2 * KEYS_AT_ONCE:
                break
        found = np.concatenate([*keys, np.zeros(0, np.uint64)])
        order = np.argsort(found, kind="stable")
        return found[order], np.concatenate([*rows, np.zeros(0, np.int64)])[order]


def shares_of(*files: KeyFile) -> int:
    """The number of shares that keeps each share of these files within `KEYS_AT_ONCE`."""
    return max(1, *(-(-file.rows // KEYS_AT_ONCE) for file in files))


def matches(keys: KeyFile, among: KeyFile) -> Iterator[tuple[Rows, Rows]]:
    """Rows of `keys` (n,) in any order; for each the row of `among` with its key, or -1.

    Keys must be distinct within each file.
    """
    shares = shares_of(keys, among)
    for number in range(shares):
        wanted, rows = keys.share(number, shares)
        known, places = among.share(number, shares)
        if not len(known):
            yield rows, np.full(len(rows), -1)
            continue
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        yield rows, np.where(known[at] == wanted, places[at], -1)


def missing_ids(
    older: Callable[[], Iterable[pa.Array]], newer: Iterable[pa.Array]
) -> tuple[int, list[str | int]]:
    """How many of the older ids are not among the newer ones, and the first of them.

    Ids are distinct on each side, and of one type. `older` is called a second time to read the
    examples.
    """
    before, after = key_file(older()), key_file(newer)
    count, first = 0, np.zeros(0, np.int64)
    for rows, found in matches(before, after):
        gone = rows[found < 0]
        count += len(gone)
        first = np.sort(np.concatenate([first, gone]))[:_EXAMPLES]
    examples: list[str | int] = []
    done = 0
    for ids in older() if count else ():
        examples += [ids[row - done].as_py() for row in first if done <= row < done + len(ids)]
        done += len(ids)
        if len(examples) == len(first):
            break
    return count, examples


def key_file(batches: Iterable[pa.Array]) -> KeyFile:
    """The keys of all ids."""
    keys = KeyFile()
    for ids in batches:
        keys.append(id_keys(ids))
    return keys


def refuse_duplicates(keys: KeyFile, batches: Iterable[pa.Array], *, table: str) -> None:
    """InputError where an id stands in two rows.

    Args:
        keys: The keys of all rows.
        batches: The ids of all rows in their order; read only where two rows share a key.
        table: What the message calls the table.
    """
    shares = shares_of(keys)
    twins = []
    for number in range(shares):
        share = keys.share(number, shares)[0]
        twins.append(np.unique(share[1:][share[1:] == share[:-1]]))
    suspects = np.concatenate(twins)  # or keys that collide
    if not len(suspects):
        return
    first_row: dict[object, int] = {}
    done = 0
    for ids in batches:
        for at in np.flatnonzero(np.isin(keys.read(done, len(ids)), suspects)).tolist():
            id_ = ids[at].as_py()
            if id_ in first_row:
                raise InputError(
                    f"{table} has id {id_!r} twice, in rows {first_row[id_]} and {done + at}. "
                    "Ids are unique: keep one of them."
                )
            first_row[id_] = done + at
        done += len(ids)
