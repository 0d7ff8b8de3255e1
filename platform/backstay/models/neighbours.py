"""Graphs for mini-batches: a few nodes, and a sample of whom they hear, round by round.

Neighbour sampling as in GraphSAGE (arXiv 1706.02216): what a step costs depends on the batch and
the fan-out alone, however large the snapshot is.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backstay.models.graph import Graph, first_matrix, gather_matrix, input_matrix, with_items
from backstay.models.snapshot import Integers, Links, Normalisation, Snapshot, ranges


class Heard(NamedTuple):
    """A round of a sample: `counts[n]` senders for hearer n, one hearer after the other."""

    hearers: npt.NDArray[np.int64]  # (H,) nodes, ascending: all that the next round needs
    counts: npt.NDArray[np.int64]  # (H,), or of the first of them, the users, alone
    senders: npt.NDArray[np.int64]  # (entries,) nodes


Sample = tuple[Heard, ...]
"""Whom some nodes hear, whom these have heard, and so on: the last round first."""


@dataclass(frozen=True, kw_only=True)
class NeighbourSampler:
    """Draws graphs in which a node hears at most `fan_out` of its neighbours."""

    snapshot: Snapshot
    rounds: int  # of messages: the model's `rounds`
    fan_out: int
    normalisation: Normalisation = "mean"

    def draw(self, nodes: Integers, rng: np.random.Generator) -> Graph:
        """A graph whose last round reaches `nodes`, ascending and distinct, in that order."""
        return self.graph(self.sample(nodes, rng, rounds=self.rounds))

    def sample(self, nodes: Integers, rng: np.random.Generator, *, rounds: int) -> Sample:
        """So many rounds that lead to `nodes`, ascending and distinct.

        Neighbours are drawn uniformly with replacement, all of them where there are no more than
        `fan_out`, so that a mean over the sample is in expectation the mean over all. In the first
        round items need no sample: they hear users, who are still all alike.
        """
        hearers = nodes.astype(np.int64, copy=False)
        sample = []
        for _ in range(rounds - 1):
            heard = self._heard(hearers, hearers, rng)
            sample.append(heard)
            hearers = _distinct(heard.senders, hearers)
        users = hearers[: np.searchsorted(hearers, self.snapshot.n_users)]
        return (*sample, self._heard(hearers, users, rng))

    def graph(self, sample: Sample) -> Graph:
        """The graph of a sample's last `rounds` rounds, of which it has as many or more."""
        *later, first = sample[: self.rounds]
        further = []
        for heard, before in zip(later, sample[1:], strict=False):
            links = self._links(heard, len(heard.hearers))
            further.append(
                gather_matrix(self._renumbered(links, before.hearers), len(before.hearers))
            )
        split = int(np.searchsorted(first.hearers, self.snapshot.n_users))
        items = first.hearers[split:]
        links = with_items(self.snapshot, self._links(first, split), items, self.normalisation)
        distinct = _distinct(
            self.snapshot.distinct(links.senders),
            self.snapshot.distinct(items),
            np.zeros(1, np.int64),
        )
        return Graph(
            input_matrix(self.snapshot, distinct),
            first_matrix(self.snapshot, links, self._place(distinct), len(distinct)),
            tuple(reversed(further)),
        )

    def _heard(
        self, hearers: npt.NDArray[np.int64], some: npt.NDArray[np.int64], rng: np.random.Generator
    ) -> Heard:
        """A round of all `hearers` in which neighbours are drawn for `some` of them."""
        neighbours = self.snapshot.neighbours
        degrees = neighbours.counts(some)
        counts = np.minimum(degrees, self.fan_out)
        offsets = ranges(np.zeros_like(counts), counts)
        choice = np.repeat(degrees, counts)
        chosen = choice > self.fan_out
        offsets[chosen] = (rng.random(chosen.sum()) * choice[chosen]).astype(np.int64)
        positions = np.repeat(neighbours.starts[some], counts) + offsets
        return Heard(hearers, counts, neighbours.columns[positions].astype(np.int64))

    def _links(self, heard: Heard, number: int) -> Links:
        """What the first `number` hearers of a round hear, and what it counts to the model."""
        hearers, counts = heard.hearers[:number], heard.counts[:number]
        senders = heard.senders[: counts.sum()]
        weights = self.snapshot.weights(hearers, counts, senders, self.normalisation)
        return Links(hearers, counts, senders, weights)

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


def _distinct(*nodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.unique(np.concatenate(nodes))
