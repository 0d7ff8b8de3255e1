"""The ids that maps are fitted on and judged on, and their vectors on disk.

An id's hash decides for all pairs alike. Every fifth hash is held out: it is in no fit of any pair.
Of both kinds the least hashes are taken. So a chain is judged on ids that none of its maps was
fitted on, and neither the order of rows nor ids of one table alone change the choice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from backstay.compat.moments import BLOCK_ROWS, Moments
from backstay.errors import InputError
from backstay.evaluation.table_maps.outside_tables import Float32, Keys, OutsideTable
from backstay.storage.keys import shares_of

HELD_OUT_SHARE = 5
"""One id in this many is held out."""

LEAST_JUDGED = 10
"""The least number of held-out ids, and of ids to fit on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """The ids that two tables share, and those to use of them."""

    source: int  # the newer table's version
    target: int
    common: int
    only_newer: int
    only_older: int
    fitted: Keys  # increasing
    judged: Keys  # increasing

    @classmethod
    def of(
        cls, tables: Sequence[OutsideTable], pair: tuple[int, int], *, fit: int, judge: int
    ) -> "Shared":
        """The pair (source, target) with at most `fit` and `judge` of the ids in both."""
        newer, older = (tables[version].keys for version in pair)
        count = 0
        fitted = judged = np.zeros(0, np.uint64)
        shares = shares_of(newer, older)
        for number in range(shares):
            new, old = (keys.share(number, shares)[0] for keys in (newer, older))
            common = np.intersect1d(new, old)
            count += len(common)
            held_out = common % np.uint64(HELD_OUT_SHARE) == 0
            fitted = np.union1d(fitted, common[~held_out])[:fit]
            judged = np.union1d(judged, common[held_out])[:judge]
        return cls(
            source=pair[0],
            target=pair[1],
            common=count,
            only_newer=newer.rows - count,
            only_older=older.rows - count,
            fitted=fitted,
            judged=judged,
        )

    @property
    def enough(self) -> bool:
        """There are enough ids to fit and to judge on."""
        return min(len(self.judged), len(self.fitted)) >= LEAST_JUDGED

    def gallery(self, size: int) -> Keys:
        """The judged ids in their order, then fitted ids up to `size` in all."""
        return np.concatenate([self.judged, self.fitted[: max(0, size - len(self.judged))]])


def shared_ids(
    tables: Sequence[OutsideTable], *, fit: int, judge: int
) -> dict[tuple[int, int], Shared]:
    """Every pair (newer, older) of versions; the steps between two versions come before the pair.

    Raises InputError if consecutive tables have too few ids in common.
    """
    pairs = [(newer, older) for newer in range(1, len(tables)) for older in reversed(range(newer))]
    found = {pair: Shared.of(tables, pair, fit=fit, judge=judge) for pair in pairs}
    for (newer, older), shared in found.items():
        if newer - older == 1 and not shared.enough:
            raise InputError(
                f"{tables[newer].path} and {tables[older].path} have {shared.common} ids in "
                f"common, {len(shared.judged)} of them held out to judge on; expected "
                f"{LEAST_JUDGED} of those, so {2 * LEAST_JUDGED * HELD_OUT_SHARE} common ids or "
                "more. Check that both tables use the same ids."
            )
    return found


@dataclass(frozen=True, eq=False)
class Gathered:
    """Sampled vectors of one table, on disk."""

    keys: Keys  # (n,) increasing
    values: Float32  # (n, D) memory map

    def rows(self, keys: Keys) -> Float32:
        """The vectors of `keys` in their order; all of them must have been sampled."""
        return self.values[np.searchsorted(self.keys, keys)]


def gather(
    tables: Sequence[OutsideTable], shared: Mapping[tuple[int, int], Shared], folder: Path
) -> list[Gathered]:
    """Write each table's sampled vectors into `folder` and map them."""
    gathered = []
    for version, table in enumerate(tables):
        parts = [
            keys
            for pair, ids in shared.items()
            if version in pair
            for keys in (ids.fitted, ids.judged)
        ]
        wanted = np.unique(np.concatenate(parts))
        gathered.append(Gathered(wanted, table.gather(wanted, folder / f"{version}.npy")))
    return gathered


def fitted_moments(gathered: Sequence[Gathered], shared: Shared) -> Moments:
    """The moments of a pair's ids to fit on, computed by blocks of rows."""
    newer, older = gathered[shared.source], gathered[shared.target]
    return reduce(
        add, (Moments.of(newer.rows(keys), older.rows(keys)) for keys in _blocks(shared.fitted))
    )


def _blocks(keys: Keys) -> Iterator[Keys]:
    for start in range(0, len(keys), BLOCK_ROWS):
        yield keys[start : start + BLOCK_ROWS]
