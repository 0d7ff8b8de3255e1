"""Graphs for mini-batches: a few nodes, and a sample of their neighbours, layer by layer.

Neighbour sampling as in GraphSAGE (arXiv 1706.02216): the cost of a step depends on the batch and
the fan-out alone, not on the size of the snapshot.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from backstay.datasets.csr import Integers, ranges
from backstay.models.graph import Graph, first_matrix, gather_matrix, input_matrix, with_items
from backstay.models.protocol import EmbeddingModel
from backstay.models.snapshot import Links, Normalisation, Snapshot


class SampledLayer(NamedTuple):
    """The edges sampled for one layer: `counts[n]` sources of `dst[n]`, one dst after the other."""

    dst: npt.NDArray[np.int64]  # (H,) nodes, ascending: all that the next layer reads
    counts: npt.NDArray[np.int64]  # (H,), or of the first of them, the users, alone
    src: npt.NDArray[np.int64]  # (entries,) nodes


Sample = tuple[SampledLayer, ...]
"""The sampled edges of every layer, the last layer first."""


@dataclass(frozen=True, kw_only=True)
class NeighbourSampler:
    """Draws graphs in which a node has at most `fan_out` neighbours per layer."""

    snapshot: Snapshot
    n_layers: int  # the model's `n_layers`
    fan_out: int
    normalisation: Normalisation = "mean"

    @classmethod
    def of(cls, snapshot: Snapshot, model: EmbeddingModel, *, fan_out: int) -> Self:
        """The sampler of a model."""
        return cls(
            snapshot=snapshot,
            n_layers=model.n_layers,
            fan_out=fan_out,
            normalisation=model.normalisation,
        )

    def draw(self, nodes: Integers, rng: np.random.Generator) -> Graph:
        """A graph whose last layer gives `nodes`, ascending and distinct, in that order."""
        return self.graph(self.sample(nodes, rng, n_layers=self.n_layers))

    def sample(self, nodes: Integers, rng: np.random.Generator, *, n_layers: int) -> Sample:
        """Sample the `n_layers` layers that embed `nodes`, ascending and distinct.

        Neighbours are drawn uniformly with replacement. A node with at most `fan_out` neighbours
        gets all of them. So a mean over the sample is in expectation the mean over all neighbours.
        In the first layer items need no sample: all users share one input vector.
        """
        dst = nodes.astype(np.int64, copy=False)
        sample = []
        for _ in range(n_layers - 1):
            layer = self._sample_layer(dst, dst, rng)
            sample.append(layer)
            dst = _distinct(layer.src, dst)
        users = dst[: np.searchsorted(dst, self.snapshot.n_users)]
        return (*sample, self._sample_layer(dst, users, rng))

    def graph(self, sample: Sample) -> Graph:
        """The graph of the sample's last `n_layers` layers; the sample has at least as many."""
        *later, first = sample[: self.n_layers]
        further = []
        for layer, before in zip(later, sample[1:], strict=False):
            links = self._links(layer, len(layer.dst))
            further.append(gather_matrix(self._renumbered(links, before.dst), len(before.dst)))
        split = int(np.searchsorted(first.dst, self.snapshot.n_users))
        items = first.dst[split:]
        links = with_items(self.snapshot, self._links(first, split), items, self.normalisation)
        distinct = _distinct(
            self.snapshot.distinct(links.src),
            self.snapshot.distinct(items),
            np.zeros(1, np.int64),
        )
        return Graph(
            input_matrix(self.snapshot, distinct),
            first_matrix(self.snapshot, links, self._place(distinct), len(distinct)),
            tuple(reversed(further)),
        )

    def _sample_layer(
        self, dst: npt.NDArray[np.int64], some: npt.NDArray[np.int64], rng: np.random.Generator
    ) -> SampledLayer:
        """A layer of all `dst` with neighbours drawn for `some` of them."""
        neighbours = self.snapshot.neighbours
        degrees = neighbours.counts(some)
        counts = np.minimum(degrees, self.fan_out)
        offsets = ranges(np.zeros_like(counts), counts)
        choice = np.repeat(degrees, counts)
        chosen = choice > self.fan_out
        offsets[chosen] = (rng.random(chosen.sum()) * choice[chosen]).astype(np.int64)
        positions = np.repeat(neighbours.starts[some], counts) + offsets
        return SampledLayer(dst, counts, neighbours.columns[positions].astype(np.int64))

    def _links(self, layer: SampledLayer, number: int) -> Links:
        """The weighted edges into the first `number` dst of a layer."""
        dst, counts = layer.dst[:number], layer.counts[:number]
        src = layer.src[: counts.sum()]
        weights = self.snapshot.weights(dst, counts, src, self.normalisation)
        return Links(dst, counts, src, weights)

    def _renumbered(self, links: Links, nodes: npt.NDArray[np.int64]) -> Links:
        """The same edges with each node replaced by its position in `nodes`."""
        places = self._place(nodes)
        return links._replace(
            dst=places[links.dst].astype(np.int64), src=places[links.src].astype(np.int64)
        )

    def _place(self, nodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """(n_nodes + 1,) the position of each of `nodes` in it; undefined for all other nodes."""
        self._places[nodes] = np.arange(len(nodes))
        return self._places

    @cached_property
    def _places(self) -> npt.NDArray[np.int32]:
        # One buffer for all draws; each draw reads only the entries that it wrote.
        return np.empty(self.snapshot.n_nodes + 1, np.int32)


def _distinct(*nodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.unique(np.concatenate(nodes))
