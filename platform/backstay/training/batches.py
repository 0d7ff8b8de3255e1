"""What a step learns from: pairs, the nodes they need, and the graph that embeds these.

Two ways to give the same thing, so that the learner makes no difference between them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from backstay.models.graph import Graph, full_graph
from backstay.models.neighbours import NeighbourSampler
from backstay.models.protocol import EmbeddingModel
from backstay.models.snapshot import Snapshot
from backstay.training.clock import Clock
from backstay.training.config import FitConfig
from backstay.training.sampling import Batch, TripleSampler
from backstay.training.workers import Workers

CALIBRATION_GRAPHS = 16
"""Sampled graphs from which averaged weights get the statistics of their batch norms."""


class Part(NamedTuple):
    """Pairs that are learned from one graph."""

    batch: Batch
    nodes: Tensor  # (users + positives + negatives,) nodes of the snapshot
    rows: Tensor  # the same as rows of the graph's vectors
    graph: Graph | None  # None: the vectors are fixed
    share: float  # of the whole batch


class Batches(ABC):
    """A source of batches, which depend on the seed and their number alone."""

    def __init__(
        self, snapshot: Snapshot, config: FitConfig, *, device: torch.device, clock: Clock
    ) -> None:
        self._n_users, self._config, self._clock = snapshot.n_users, config, clock
        self._sampler, self._device = TripleSampler(snapshot), device

    @abstractmethod
    def parts(self, number: int, workers: Workers) -> Iterator[Part]:
        """A worker's parts of batch `number`; over all workers their shares add up to 1."""

    @abstractmethod
    def calibration(self) -> Iterator[Graph]:
        """Graphs on which batch norms see what they see in training."""


class WholeGraph(Batches):
    """One graph of all nodes. Every worker runs it for its share of the pairs.

    With `fixed` vectors there is no graph to run.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        model: EmbeddingModel,
        config: FitConfig,
        *,
        fixed: bool,
        device: torch.device,
        clock: Clock,
    ) -> None:
        super().__init__(snapshot, config, device=device, clock=clock)
        self._graph = None if fixed else full_graph(snapshot, model.normalisation).to(device)

    def parts(self, number: int, workers: Workers) -> Iterator[Part]:
        """One part."""
        config = self._config
        with self._clock("data"):
            rng = np.random.default_rng((config.seed, number))
            batch = self._sampler.draw(config.batch_size, rng, negatives=config.negatives)
            batch = batch.shard(workers.rank, workers.size)
            nodes = torch.from_numpy(batch.nodes(self._n_users)).to(self._device)
        yield Part(batch, nodes, nodes, self._graph, len(batch.users) / config.batch_size)

    def calibration(self) -> Iterator[Graph]:
        """The graph."""
        if self._graph is not None:
            yield self._graph


class SampledGroups(Batches):
    """Groups of pairs, each with a sampled graph and negatives of its own.

    Workers share the groups out. A group doesn't know who runs it, and its batch norms see the
    group alone, so that the number of workers changes nothing but the time.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        model: EmbeddingModel,
        config: FitConfig,
        *,
        device: torch.device,
        clock: Clock,
    ) -> None:
        super().__init__(snapshot, config, device=device, clock=clock)
        self._neighbours = NeighbourSampler(
            snapshot=snapshot,
            rounds=model.rounds,
            fan_out=config.fan_out,
            normalisation=model.normalisation,
        )

    def parts(self, number: int, workers: Workers) -> Iterator[Part]:
        """Every `size`-th group, beginning with number `rank`."""
        for group in range(workers.rank, self._config.groups, workers.size):
            yield self._draw(number, group)[0]

    def calibration(self) -> Iterator[Graph]:
        """Graphs of groups that are never learned from."""
        for number in range(CALIBRATION_GRAPHS):
            yield self._draw(number, self._config.groups)[1]

    def _draw(self, number: int, group: int) -> tuple[Part, Graph]:
        """A group, and its graph."""
        config = self._config
        rng = np.random.default_rng((config.seed, number, group))
        with self._clock("data"):
            batch = self._sampler.draw(config.group_size, rng, negatives=config.negatives)
        with self._clock("sampling"):
            nodes = batch.nodes(self._n_users)
            reached, rows = np.unique(nodes, return_inverse=True)
            graph = self._neighbours.draw(reached, rng).to(self._device)
            places = torch.from_numpy(np.stack([nodes, rows])).to(self._device)
        return Part(batch, places[0], places[1], graph, 1 / config.groups), graph
