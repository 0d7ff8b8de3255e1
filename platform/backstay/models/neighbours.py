"""Graphs for mini-batches: a few nodes, and a sample of whom they hear, round by round.

Neighbour sampling as in GraphSAGE (arXiv 1706.02216): what a step costs depends on the batch and
the fan-out alone, however large the snapshot is.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from backstay.models.graph import Graph, first_matrix, gather_matrix, input_matrix, with_items
from backstay.models.snapshot import Integers, Links, Normalisation, Snapshot, ranges


@dataclass(frozen=True, kw_only=True)
class NeighbourSampler:
    """Draws graphs in which a node hears at most `fan_out` of its neighbours."""

    snapshot: Snapshot
    rounds: int  # of messages: the model's `rounds`
    fan_out: int
    normalisation: Normalisation = "mean"

    def draw(self, nodes: Integers, rng: np.random.Generator) -> Graph:
        """A graph whose last round reaches `nodes`, ascending and distinct, in that order.

        Neighbours are drawn uniformly with replacement, all of them where there are no more than
        `fan_out`, so that a mean over the sample is in expectation the mean over all. In the first
        round items need no sample: they hear users, who are still all alike.
        """
        hearers = nodes.astype(np.int64, copy=False)
        further = []
        for _ in range(self.rounds - 1):
            links = self._links(hearers, rng)
            sources = self._distinct(links.senders, hearers)
            further.append(gather_matrix(self._renumbered(links, sources), len(sources)))
            hearers = sources
        split = np.searchsorted(hearers, self.snapshot.n_users)
        by_users = self._links(hearers[:split], rng)
        links = with_items(self.snapshot, by_users, hearers[split:], self.normalisation)
        distinct = self._distinct(
            self.snapshot.distinct(links.senders),
            self.snapshot.distinct(hearers[split:]),
            np.zeros(1, np.int64),
        )
        return Graph(
            input_matrix(self.snapshot, distinct),
            first_matrix(self.snapshot, links, self._place(distinct), len(distinct)),
            tuple(reversed(further)),
        )

    def _links(self, hearers: npt.NDArray[np.int64], rng: np.random.Generator) -> Links:
        neighbours = self.snapshot.neighbours
        degrees = neighbours.counts(hearers)
        counts = np.minimum(degrees, self.fan_out)
        offsets = ranges(np.zeros_like(counts), counts)
        choice = np.repeat(degrees, counts)
        chosen = choice > self.fan_out
        offsets[chosen] = (rng.random(chosen.sum()) * choice[chosen]).astype(np.int64)
        positions = np.repeat(neighbours.starts[hearers], counts) + offsets
        senders = neighbours.columns[positions].astype(np.int64)
        weights = self.snapshot.weights(hearers, counts, senders, self.normalisation)
        return Links(hearers, counts, senders, weights)

    def _distinct(self, *nodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.unique(np.concatenate(nodes))

    def _renumbered(self, links: Links, sources: npt.NDArray[np.int64]) -> Links:
        places = self._place(sources)
        return links._replace(
            hearers=places[links.hearers].astype(np.int64),
            senders=places[links.senders].astype(np.int64),
        )

    def _place(self, nodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Where each of some distinct nodes stands among them; of others it says nothing."""
        self._places[nodes] = np.arange(len(nodes))
        return self._places

    @cached_property
    def _places(self) -> npt.NDArray[np.int32]:
        # One number per node for all draws; only those of a draw are ever written or read.
        return np.empty(self.snapshot.n_nodes + 1, np.int32)
