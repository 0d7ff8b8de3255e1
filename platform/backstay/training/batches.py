"""Batches: pairs, the nodes that they need, and the graph that embeds these nodes.

Two sources with one interface: the whole graph, or groups of sampled neighbours.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from backstay.models.graph import Graph, full_graph
from backstay.models.neighbours import NeighbourSampler, Sample
from backstay.models.protocol import EmbeddingModel
from backstay.models.snapshot import Snapshot
from backstay.training.config import FitConfig
from backstay.training.phase_timer import PhaseTimer
from backstay.training.sampling import Batch, TripleSampler
from backstay.training.teacher import Teacher
from backstay.training.workers import Workers

CALIBRATION_GRAPHS = 16
"""Sampled graphs from which the batch norms of averaged weights get their statistics."""


class Part(NamedTuple):
    """Pairs that are trained on one graph."""

    batch: Batch
    nodes: Tensor  # (users + positives + negatives,) nodes of the snapshot
    rows: Tensor  # the same as rows of the graph's vectors
    graph: Graph | None  # None: the vectors are fixed
    share: float  # of the whole batch
    teacher: Tensor | None = None  # (users + positives + negatives, D_{k-1}): z_{k-1}, if needed


@dataclass
class Batches(ABC):
    """A source of batches. A batch depends on the seed and its number alone."""

    snapshot: Snapshot
    model: EmbeddingModel
    config: FitConfig
    _: KW_ONLY
    teacher: Teacher | None = None
    device: torch.device
    timer: PhaseTimer

    def __post_init__(self) -> None:
        self._sampler = TripleSampler(self.snapshot)

    @abstractmethod
    def parts(self, number: int, workers: Workers) -> Iterator[Part]:
        """This worker's parts of batch `number`; over all workers their shares add up to 1."""

    @abstractmethod
    def calibration(self) -> Iterator[Graph]:
        """Graphs like those of training, from which batch norms get their statistics."""


@dataclass
class WholeGraph(Batches):
    """One graph of all nodes. Every worker runs it for its share of the pairs.

    With `fixed` vectors no graph is run.
    """

    fixed: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        self._graph = None
        if not self.fixed:
            self._graph = full_graph(self.snapshot, self.model.normalisation).to(self.device)

    def parts(self, number: int, workers: Workers) -> Iterator[Part]:
        """One part."""
        config = self.config
        with self.timer("data"):
            rng = np.random.default_rng((config.seed, number))
            batch = self._sampler.draw(config.batch_size, rng, negatives=config.negatives)
            batch = batch.shard(workers.rank, workers.size)
            nodes = torch.from_numpy(batch.nodes(self.snapshot.n_users)).to(self.device)
            teacher = self.teacher.rows(nodes) if self.teacher else None
        share = len(batch.users) / config.batch_size
        yield Part(batch, nodes, nodes, self._graph, share, teacher)

    def calibration(self) -> Iterator[Graph]:
        """The graph."""
        if self._graph is not None:
            yield self._graph


@dataclass
class SampledGroups(Batches):
    """Groups of pairs, each with a sampled graph and negatives of its own.

    The groups are shared out among the workers. A group and its batch norms do not depend on which
    worker runs it, so the number of workers changes the time but not the result.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        fan_out = self.config.fan_out
        self._sampled = self.teacher.sampled(fan_out, self.device) if self.teacher else None
        self._neighbours = NeighbourSampler.of(self.snapshot, self.model, fan_out=fan_out)
        self._n_layers = max(self.model.n_layers, self._sampled.n_layers if self._sampled else 0)

    def parts(self, number: int, workers: Workers) -> Iterator[Part]:
        """Every `size`-th group, from number `rank` on."""
        for group in range(workers.rank, self.config.groups, workers.size):
            rng, batch = self._draw(number, group)
            with self.timer("sampling"):
                nodes = batch.nodes(self.snapshot.n_users)
                reached, rows = np.unique(nodes, return_inverse=True)
                sample = self._neighbours.sample(reached, rng, n_layers=self._n_layers)
                graph = self._neighbours.graph(sample).to(self.device)
                places = torch.from_numpy(np.stack([nodes, rows])).to(self.device)
            teacher = self._teacher_rows(sample, *places)
            yield Part(batch, places[0], places[1], graph, 1 / self.config.groups, teacher)

    def calibration(self) -> Iterator[Graph]:
        """Graphs of groups that are never trained on."""
        for number in range(CALIBRATION_GRAPHS):
            rng, batch = self._draw(number, self.config.groups)
            with self.timer("sampling"):
                graph = self._neighbours.draw(np.unique(batch.nodes(self.snapshot.n_users)), rng)
            yield graph.to(self.device)

    def _draw(self, number: int, group: int) -> tuple[np.random.Generator, Batch]:
        """The pairs of a group, and the generator that draws its sample next."""
        config = self.config
        rng = np.random.default_rng((config.seed, number, group))
        with self.timer("data"):
            return rng, self._sampler.draw(config.group_size, rng, negatives=config.negatives)

    def _teacher_rows(self, sample: Sample, nodes: Tensor, rows: Tensor) -> Tensor | None:
        if self._sampled:
            with self.timer("forward"):
                return self._sampled.embed(sample).index_select(0, rows)
        return self.teacher.rows(nodes) if self.teacher else None
