"""The interaction graph of a snapshot as plain arrays, which processes can share.

Nodes are numbered users first, then items: node(user u) = u, node(item i) = n_users + i.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from backstay.datasets.dataset import Attributes
from backstay.datasets.timeline import Step

Integers = npt.NDArray[np.integer[Any]]
Normalisation = Literal["mean", "symmetric"]
"""What a message counts: 1/d of who hears it, or 1/√(d·d') of who hears and who sends it."""


@dataclass(frozen=True)
class Rows:
    """Sparse rows: row r holds `columns[starts[r]:starts[r + 1]]`."""

    starts: npt.NDArray[np.int64]  # (rows + 1,)
    columns: npt.NDArray[np.int32]  # (entries,)

    @classmethod
    def of(cls, rows: Integers, columns: Integers, shape: tuple[int, int]) -> Self:
        """From coordinates, sorted by row and column."""
        keys = np.sort(rows.astype(np.int64) * shape[1] + columns)
        ends = np.cumsum(np.bincount(keys // shape[1], minlength=shape[0]))
        return cls(np.concatenate([[0], ends]), (keys % shape[1]).astype(np.int32))

    def counts(self, rows: Integers) -> npt.NDArray[np.int64]:
        """How many entries some rows have."""
        counts: npt.NDArray[np.int64] = self.starts[rows + 1] - self.starts[rows]
        return counts

    def entries(self, rows: Integers) -> npt.NDArray[np.int64]:
        """Where the entries of some rows are, one row after the other."""
        return ranges(self.starts[rows], self.counts(rows))


def ranges(starts: Integers, counts: Integers) -> npt.NDArray[np.int64]:
    """start, start + 1, … for each start, as many as its count, in one array."""
    before = np.cumsum(counts) - counts
    positions: npt.NDArray[np.int64] = np.repeat(starts - before, counts) + np.arange(counts.sum())
    return positions


class Links(NamedTuple):
    """Who hears whom: `counts[n]` senders for hearer n, one hearer after the other."""

    hearers: npt.NDArray[np.int64]  # (H,) nodes, ascending
    counts: npt.NDArray[np.int64]  # (H,)
    senders: npt.NDArray[np.int64]  # (entries,) nodes
    weights: npt.NDArray[np.float32]  # (entries,)


@dataclass(frozen=True)
class Snapshot:
    """What the nodes are made of, and who is linked to whom.

    Users have no features of their own: before they have heard anyone they are all alike, and one
    distinct node stands for them. So the distinct nodes are 0, any user, and 1 + i, item i.
    """

    n_users: int
    n_items: int
    n_values: int  # attribute values, over all kinds, and one for "a user"
    inputs: Rows  # of a distinct node: the values it averages; value 0 is "a user"
    input_weights: npt.NDArray[np.float32]
    neighbours: Rows  # of a node; an edge that is there twice counts twice

    @classmethod
    def of(cls, step: Step, attributes: Attributes) -> Self:
        """The training graph of a step; `attributes` are indexed as the model knows them."""
        users, items = step.train.users, step.train.items + np.int64(step.n_users)
        nodes = step.n_users + step.n_items
        neighbours = Rows.of(
            np.concatenate([users, items]), np.concatenate([items, users]), (nodes, nodes)
        )
        return cls(step.n_users, step.n_items, *_inputs(step.n_items, attributes), neighbours)

    def read_as(self, attributes: Attributes) -> Self:
        """The same graph for a model that indexes attributes in another way; shares its memory."""
        n_values, inputs, weights = _inputs(self.n_items, attributes)
        return replace(self, n_values=n_values, inputs=inputs, input_weights=weights)

    @property
    def n_nodes(self) -> int:
        """Users and items."""
        return self.n_users + self.n_items

    def links(self, hearers: Integers, normalisation: Normalisation) -> Links:
        """All that some nodes hear."""
        counts = self.neighbours.counts(hearers)
        senders = self.neighbours.columns[self.neighbours.entries(hearers)].astype(np.int64)
        return Links(
            hearers.astype(np.int64, copy=False),
            counts,
            senders,
            self.weights(hearers, counts, senders, normalisation),
        )

    def weights(
        self, hearers: Integers, counts: Integers, senders: Integers, normalisation: Normalisation
    ) -> npt.NDArray[np.float32]:
        """What each message counts where `counts[n]` of hearer n's neighbours are heard for all."""
        shares = np.repeat(1 / np.maximum(counts, 1), counts)
        if normalisation == "symmetric":
            degrees = np.repeat(self.neighbours.counts(hearers), counts)
            shares *= np.sqrt(degrees / self.neighbours.counts(senders))
        return shares.astype(np.float32)

    @cached_property
    def reach(self) -> npt.NDArray[np.float64]:
        """Of a node, the sum over its neighbours of 1/√(d·d'), as symmetric weights have it."""
        degrees = np.diff(self.neighbours.starts)
        owners = np.repeat(np.arange(self.n_nodes), degrees)
        shares = 1 / np.sqrt(degrees[self.neighbours.columns])
        total = np.bincount(owners, shares, self.n_nodes)
        reach: npt.NDArray[np.float64] = total / np.sqrt(np.maximum(degrees, 1))
        return reach

    def distinct(self, nodes: Integers) -> npt.NDArray[np.int64]:
        """Which distinct node stands for each of some nodes before the first round."""
        return np.maximum(nodes.astype(np.int64) - (self.n_users - 1), 0)


def _inputs(n_items: int, attributes: Attributes) -> tuple[int, Rows, npt.NDArray[np.float32]]:
    """The number of values, the distinct nodes' values, and what each of these counts."""
    offset = 1
    owners, values, weights = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], [np.ones(1)]
    for kind in attributes.kinds:
        indptr = kind.indptr[: n_items + 1]
        lengths = np.diff(indptr)
        owners.append(1 + np.repeat(np.arange(n_items), lengths))
        values.append(offset + kind.indices[: indptr[-1]].astype(np.int64))
        weights.append(np.repeat(1 / np.maximum(lengths, 1), lengths))
        offset += len(kind.values)
    rows = np.concatenate(owners)
    order = np.argsort(rows, kind="stable")
    ends = np.cumsum(np.bincount(rows, minlength=1 + n_items))
    return (
        offset,
        Rows(np.concatenate([[0], ends]), np.concatenate(values)[order].astype(np.int32)),
        np.concatenate(weights)[order].astype(np.float32),
    )
