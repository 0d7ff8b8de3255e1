"""Drawing the triples of the embedding loss: user, positive item, negative item."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backstay.errors import TrainingError
from backstay.models.snapshot import Snapshot

Indices = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """n pairs of a user and one of its items, and negative items."""

    users: Indices  # (n,)
    positives: Indices  # (n,)
    negatives: Indices  # (n,): one per pair; or (m,): shared by all pairs
    counted: npt.NDArray[np.bool_] | None = None
    """(n, m): whether the negative is no training item of the pair's user; None: one per pair."""

    def shard(self, rank: int, size: int) -> "Batch":
        """Every `size`-th pair, from number `rank` on, with all shared negatives."""
        part = slice(rank, None, size)
        if self.counted is None:
            return Batch(self.users[part], self.positives[part], self.negatives[part])
        return Batch(self.users[part], self.positives[part], self.negatives, self.counted[part])

    def nodes(self, n_users: int) -> Indices:
        """The nodes of the users, then of the positives, then of the negatives."""
        return np.concatenate([self.users, self.positives + n_users, self.negatives + n_users])


class TripleSampler:
    """Users uniformly among those with training edges, then one of their edges, then negatives.

    So edges are drawn with replacement, with weight 1/degree of their user. A negative is any item
    of the snapshot that is not among the user's training items. A shared negative that is one does
    not count for that user. Draws are independent of each other.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        n_users, n_items = snapshot.n_users, snapshot.n_items
        neighbours = snapshot.neighbours
        self._starts = neighbours.starts[: n_users + 1]
        self._items = neighbours.columns[: self._starts[-1]]  # as nodes
        # One sorted key per edge lists the edges of u, and tests whether (u, i) is one.
        owners = np.repeat(np.arange(n_users), np.diff(self._starts))
        self._keys = owners * n_items + (self._items - n_users)
        new = np.ones(len(self._keys), np.bool_)
        new[1:] = self._keys[1:] != self._keys[:-1]
        distinct = np.bincount(owners[new], minlength=n_users)
        self._users = np.flatnonzero((distinct > 0) & (distinct < n_items))
        if not len(self._users):
            raise TrainingError(
                "expected a user with a training item and an item that is none, found no such user "
                f"among {len(self._items)} training edges. Train on a later slice."
            )

    def draw(self, count: int, rng: np.random.Generator, *, negatives: int = 0) -> Batch:
        """Draw `count` pairs, each with its own negative, or with `negatives` shared by all."""
        n_users, n_items = self._snapshot.n_users, self._snapshot.n_items
        users = self._users[rng.integers(len(self._users), size=count)]
        degrees = self._starts[users + 1] - self._starts[users]
        offsets = (rng.random(count) * degrees).astype(np.int64)
        positives = self._items[self._starts[users] + offsets].astype(np.int64) - n_users
        if negatives:
            drawn = rng.choice(n_items, min(negatives, n_items), replace=False, shuffle=False)
            return Batch(users, positives, drawn, ~self._taken(users, drawn))
        own = rng.integers(n_items, size=count)
        while len(clash := np.flatnonzero(self._is_edge(users, own))):
            own[clash] = rng.integers(n_items, size=len(clash))
        return Batch(users, positives, own)

    def _is_edge(self, users: Indices, items: Indices) -> npt.NDArray[np.bool_]:
        keys = users * self._snapshot.n_items + items
        found = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        is_edge: npt.NDArray[np.bool_] = self._keys[found] == keys
        return is_edge

    def _taken(self, users: Indices, items: Indices) -> npt.NDArray[np.bool_]:
        """(users, items): whether the user has the item, looked up among the users of each item."""
        neighbours, nodes = self._snapshot.neighbours, items + self._snapshot.n_users
        counts = neighbours.counts(nodes)
        takers = neighbours.columns[neighbours.entries(nodes)]
        columns = np.repeat(np.arange(len(items)), counts)
        distinct, rows = np.unique(users, return_inverse=True)
        place = np.minimum(np.searchsorted(distinct, takers), len(distinct) - 1)
        here = distinct[place] == takers
        taken = np.zeros((len(distinct), len(items)), np.bool_)
        taken[place[here], columns[here]] = True
        by_pair: npt.NDArray[np.bool_] = taken[rows]
        return by_pair
