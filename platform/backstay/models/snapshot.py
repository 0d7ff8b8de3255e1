"""The interaction graph of a snapshot as plain arrays, which processes can share.

Nodes are numbered users first, then items: node(user u) = u, node(item i) = n_users + i.
A message goes from a source node (src) to a destination node (dst).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from backstay.datasets.csr import Csr, Integers, starts_of
from backstay.datasets.dataset import Attributes
from backstay.datasets.timeline import Step

Normalisation = Literal["mean", "symmetric"]
"""The weight of a message: 1/d of its dst, or 1/√(d·d') of its dst and its src (d: degrees)."""


class Links(NamedTuple):
    """Weighted edges, grouped by dst: `counts[n]` sources of `dst[n]`, one dst after the other."""

    dst: npt.NDArray[np.int64]  # (H,) nodes, ascending
    counts: npt.NDArray[np.int64]  # (H,)
    src: npt.NDArray[np.int64]  # (entries,) nodes
    weights: npt.NDArray[np.float32]  # (entries,)


@dataclass(frozen=True)
class Snapshot:
    """The attribute values of every node, and the edges between nodes.

    Users have no features: all share one input vector, so one distinct node represents them before
    the first layer. Distinct node 0 is any user, distinct node 1 + i is item i.
    """

    n_users: int
    n_items: int
    n_values: int  # attribute values, over all kinds, and one for "a user"
    inputs: Csr  # per distinct node: the values it averages; value 0 is "a user"
    input_weights: npt.NDArray[np.float32]
    neighbours: Csr  # per node; a repeated edge counts as often as it is repeated

    @classmethod
    def of(cls, step: Step, attributes: Attributes) -> Self:
        """The training graph of a step; `attributes` are indexed by the model's vocabulary."""
        users, items = step.train.users, step.train.items + np.int64(step.n_users)
        nodes = step.n_users + step.n_items
        neighbours = Csr.of(
            np.concatenate([users, items]), np.concatenate([items, users]), (nodes, nodes)
        )
        return cls(step.n_users, step.n_items, *_inputs(step.n_items, attributes), neighbours)

    def read_as(self, attributes: Attributes) -> Self:
        """The same graph for a model with another vocabulary; shares this one's memory."""
        n_values, inputs, weights = _inputs(self.n_items, attributes)
        return replace(self, n_values=n_values, inputs=inputs, input_weights=weights)

    @property
    def n_nodes(self) -> int:
        """Users and items."""
        return self.n_users + self.n_items

    def links(self, dst: Integers, normalisation: Normalisation) -> Links:
        """All edges into the given nodes."""
        counts = self.neighbours.counts(dst)
        src = self.neighbours.columns[self.neighbours.entries(dst)].astype(np.int64)
        return Links(
            dst.astype(np.int64, copy=False),
            counts,
            src,
            self.weights(dst, counts, src, normalisation),
        )

    def weights(
        self, dst: Integers, counts: Integers, src: Integers, normalisation: Normalisation
    ) -> npt.NDArray[np.float32]:
        """The weight of each edge, where `counts[n]` neighbours represent all those of `dst[n]`."""
        shares = np.repeat(1 / np.maximum(counts, 1), counts)
        if normalisation == "symmetric":
            degrees = np.repeat(self.neighbours.counts(dst), counts)
            shares *= np.sqrt(degrees / self.neighbours.counts(src))
        return shares.astype(np.float32)

    @cached_property
    def reach(self) -> npt.NDArray[np.float64]:
        """(nodes,) the sum of each node's symmetric weights: Σ 1/√(d·d') over its neighbours."""
        degrees = np.diff(self.neighbours.starts)
        owners = np.repeat(np.arange(self.n_nodes), degrees)
        shares = 1 / np.sqrt(degrees[self.neighbours.columns])
        total = np.bincount(owners, shares, self.n_nodes)
        reach: npt.NDArray[np.float64] = total / np.sqrt(np.maximum(degrees, 1))
        return reach

    def distinct(self, nodes: Integers) -> npt.NDArray[np.int64]:
        """The distinct node that represents each of the given nodes before the first layer."""
        return np.maximum(nodes.astype(np.int64) - (self.n_users - 1), 0)


def _inputs(n_items: int, attributes: Attributes) -> tuple[int, Csr, npt.NDArray[np.float32]]:
    """The number of values, the values of each distinct node, and the weight of each entry."""
    offset = 1
    owners, values, weights = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], [np.ones(1)]
    for kind in attributes.kinds:
        starts = kind.rows.starts[: n_items + 1]
        lengths = np.diff(starts)
        owners.append(1 + np.repeat(np.arange(n_items), lengths))
        values.append(offset + kind.rows.columns[: starts[-1]].astype(np.int64))
        weights.append(np.repeat(1 / np.maximum(lengths, 1), lengths))
        offset += len(kind.values)
    rows = np.concatenate(owners)
    order = np.argsort(rows, kind="stable")
    starts = starts_of(np.bincount(rows, minlength=1 + n_items))
    return (
        offset,
        Csr(starts, np.concatenate(values)[order].astype(np.int32)),
        np.concatenate(weights)[order].astype(np.float32),
    )
