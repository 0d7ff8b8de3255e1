"""Tables divided by id over shards: which shard holds an id, and how answers are put together.

The hash of an id is part of the format of shards' copies: see `cache.FORMAT` before changing it.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.serving.ids import IdArray
from backstay.storage.ids import string_bytes

Positions = npt.NDArray[np.int64]

_BASE = 0x9E3779B97F4A7C15  # odd, so that no power of it is 0
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Shard(NamedTuple):
    """One of `of` equal parts of all ids; `number` counts from 0."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"shard {self.number} of {self.of}"

    @property
    def part(self) -> str:
        """The name of this part in the cache; see `cache_folder`."""
        return f"of{self.of}.{self.number}"

    def holds(self, ids: IdArray) -> npt.NDArray[np.bool_]:
        """Whether each id belongs to this shard, (n,)."""
        own: npt.NDArray[np.bool_] = shard_of(ids, self.of) == self.number
        return own


class Rows(NamedTuple):
    """A shard's part of an answer."""

    found: npt.NDArray[np.bool_]  # (m,): whether the shard holds each id that it was asked for
    values: npt.NDArray[np.float32]  # (n, D): the rows of those, in the order asked


def shard_of(ids: IdArray, shards: int) -> Positions:
    """The shard of each id, (n,) in 0 … shards - 1: the same on every machine, in every release."""
    hashes = ids.astype(np.uint64) if isinstance(ids, np.ndarray) else _hashed(ids)
    # The finalizer of SplitMix64: every bit of the input changes half of the output's bits.
    hashes = (hashes ^ (hashes >> np.uint64(30))) * _MIX_1
    hashes = (hashes ^ (hashes >> np.uint64(27))) * _MIX_2
    hashes ^= hashes >> np.uint64(31)
    return (hashes % np.uint64(shards)).astype(np.int64)


def _hashed(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """Of each string, the polynomial of its bytes (each plus 1) modulo 2^64."""
    if not len(ids):
        return np.zeros(0, np.uint64)
    ends, text = string_bytes(ids)
    lengths = np.diff(ends)
    powers = np.full(lengths.max(), _BASE, np.uint64).cumprod()
    places = np.arange(len(text)) - np.repeat(ends[:-1], lengths)
    terms = (text.astype(np.uint64) + np.uint64(1)) * powers[places]
    sums = np.concatenate([np.zeros(1, np.uint64), terms.cumsum()])
    hashed: npt.NDArray[np.uint64] = sums[ends[1:]] - sums[ends[:-1]]  # wraps round as the sum does
    return hashed


def split(ids: IdArray, shards: int) -> dict[int, Positions]:
    """Where the ids of each shard stand in `ids`, ascending; shards without an id are left out."""
    of = shard_of(ids, shards)
    order = of.argsort(kind="stable")
    ends = np.bincount(of, minlength=shards).cumsum()
    return {
        shard: places
        for shard, places in enumerate(np.split(order, ends[:-1]))
        if len(places)
    }  # fmt: skip


def take(ids: IdArray, places: Positions) -> IdArray:
    """The ids at these positions."""
    return ids[places] if isinstance(ids, np.ndarray) else ids.take(pa.array(places))


def merge(
    parts: Mapping[int, Rows], places: Mapping[int, Positions], *, count: int, dim: int
) -> Rows:
    """The answer to `count` ids, in the order asked, from the parts of shards.

    `places` are those of `split`. Ids of a shard without a part are not found.
    """
    found = np.zeros(count, bool)
    for shard, rows in parts.items():
        found[places[shard]] = rows.found
    ranks = found.cumsum() - 1
    values = np.empty((np.count_nonzero(found), dim), np.float32)
    for shard, rows in parts.items():
        values[ranks[places[shard][rows.found]]] = rows.values
    return Rows(found, values)


def unanswered(
    places: Mapping[int, Positions], lost: Iterable[int], *, count: int
) -> npt.NDArray[np.bool_]:
    """A mask (count,) of the ids whose shard is lost."""
    mask = np.zeros(count, bool)
    for shard in lost:
        mask[places[shard]] = True
    return mask
