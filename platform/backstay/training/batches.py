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
from backstay.models.neighbours import NeighbourSampler, Sample
from backstay.models.protocol import EmbeddingModel
from backstay.models.snapshot import Snapshot
from backstay.training.clock import Clock
from backstay.training.config import FitConfig
from backstay.training.known import Known
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
    known: Tensor | None = None  # (users + positives + negatives, D_{k-1}): z_{k-1}, if needed


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
        known: Known | None = None,
        device: torch.device,
        clock: Clock,
    ) -> None:
        super().__init__(snapshot, config, device=device, clock=clock)
        self._known = known
        self._graph = None if fixed else full_graph(snapshot, model.normalisation).to(device)

    def parts(self, number: int, workers: Workers) -> Iterator[Part]:
        """One part."""
        config = self._config
        with self._clock("data"):
            rng = np.random.default_rng((config.seed, number))
            batch = self._sampler.draw(config.batch_size, rng, negatives=config.negatives)
            batch = batch.shard(workers.rank, workers.size)
            nodes = torch.from_numpy(batch.nodes(self._n_users)).to(self._device)
            known = self._known.rows(nodes) if self._known else None
        share = len(batch.users) / config.batch_size
        yield Part(batch, nodes, nodes, self._graph, share, known)

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
        known: Known | None = None,
        device: torch.device,
        clock: Clock,
    ) -> None:
        super().__init__(snapshot, config, device=device, clock=clock)
        self._known = known
        self._before = known.on_samples(config.fan_out, device) if known else None
        self._neighbours = NeighbourSampler(
            snapshot=snapshot,
            rounds=model.rounds,
            fan_out=config.fan_out,
            normalisation=model.normalisation,
        )
        self._rounds = max(model.rounds, self._before.rounds if self._before else 0)

    def parts(self, number: int, workers: Workers) -> Iterator[Part]:
        """Every `size`-th group, beginning with number `rank`."""
        for group in range(workers.rank, self._config.groups, workers.size):
            rng, batch = self._draw(number, group)
            with self._clock("sampling"):
                nodes = batch.nodes(self._n_users)
                reached, rows = np.unique(nodes, return_inverse=True)
                sample = self._neighbours.sample(reached, rng, rounds=self._rounds)
                graph = self._neighbours.graph(sample).to(self._device)
                places = torch.from_numpy(np.stack([nodes, rows])).to(self._device)
            known = self._known_rows(sample, *places)
            yield Part(batch, places[0], places[1], graph, 1 / self._config.groups, known)

    def calibration(self) -> Iterator[Graph]:
        """Graphs of groups that are never learned from."""
        for number in range(CALIBRATION_GRAPHS):
            rng, batch = self._draw(number, self._config.groups)
            with self._clock("sampling"):
                graph = self._neighbours.draw(np.unique(batch.nodes(self._n_users)), rng)
            yield graph.to(self._device)

    def _draw(self, number: int, group: int) -> tuple[np.random.Generator, Batch]:
        """The pairs of a group, and what draws its sample."""
        config = self._config
        rng = np.random.default_rng((config.seed, number, group))
        with self._clock("data"):
            return rng, self._sampler.draw(config.group_size, rng, negatives=config.negatives)

    def _known_rows(self, sample: Sample, nodes: Tensor, rows: Tensor) -> Tensor | None:
        if self._before:
            with self._clock("forward"):
                return self._before.embed(sample).index_select(0, rows)
        return self._known.rows(nodes) if self._known else None
