"""Drawing the triples the embedding loss learns from: user, positive item, negative item."""

from typing import NamedTuple

import torch
from torch import Tensor

from backstay.datasets.timeline import Step
from backstay.errors import TrainingError


class Batch(NamedTuple):
    """n triples of user and item indices, each (n,) int64."""

    users: Tensor
    positives: Tensor
    negatives: Tensor

    def shard(self, rank: int, size: int) -> "Batch":
        """Every `size`-th triple, beginning with number `rank`."""
        return Batch(*(column[rank::size] for column in self))

    def nodes(self, n_users: int) -> Tensor:
        """The nodes of the users, then of the positives, then of the negatives: (3n,) int64."""
        return torch.cat([self.users, self.positives + n_users, self.negatives + n_users])


class TripleSampler:
    """Users uniformly among those with training edges, then one of their edges, then a negative.

    So edges are drawn with replacement and weight 1/degree of their user. A negative is any item
    of the step that is not among the user's training items. Draws come from one CPU generator:
    the same on every device, and the same on every worker that shares the seed.
    """

    def __init__(self, step: Step, *, seed: int) -> None:
        users = torch.from_numpy(step.train.users.astype("int64"))
        items = torch.from_numpy(step.train.items.astype("int64"))
        self._n_items = step.n_items
        # One sorted key per training edge answers both "which edges has u" and "is (u, i) one".
        self._keys = torch.unique(users * step.n_items + items)
        distinct = torch.bincount(self._keys // step.n_items, minlength=step.n_users)
        order = users.argsort(stable=True)
        self._items_by_user = items[order]
        self._degrees = torch.bincount(users, minlength=step.n_users)
        self._starts = self._degrees.cumsum(0) - self._degrees
        self._users = ((distinct > 0) & (distinct < step.n_items)).nonzero().squeeze(1)
        if not len(self._users):
            raise TrainingError(
                "no user has both a training item and an item to contrast it with; "
                f"the step has {len(step.train)} training edges. Train on a later slice."
            )
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, count: int) -> Batch:
        """`count` triples."""
        users = self._users[self._integers(len(self._users), count)]
        offsets = torch.rand(count, generator=self.generator, dtype=torch.float64)
        degrees = self._degrees[users]
        offsets = (offsets * degrees).long().clamp_(max=degrees - 1)
        positives = self._items_by_user[self._starts[users] + offsets]
        negatives = self._integers(self._n_items, count)
        while len(clash := self._is_edge(users, negatives).nonzero().squeeze(1)):
            negatives[clash] = self._integers(self._n_items, len(clash))
        return Batch(users, positives, negatives)

    def _integers(self, high: int, count: int) -> Tensor:
        return torch.randint(high, (count,), generator=self.generator)

    def _is_edge(self, users: Tensor, items: Tensor) -> Tensor:
        keys = users * self._n_items + items
        found = torch.searchsorted(self._keys, keys).clamp_(max=len(self._keys) - 1)
        is_edge: Tensor = self._keys[found] == keys
        return is_edge
