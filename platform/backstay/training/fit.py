"""The fitting loop: one for every update method, in plain torch.

It takes arrays and tensors, draws batches, and keeps the best state by a score it is handed. It
opens no file and knows no Ray: checkpoints and progress leave through two callbacks.

Legend of shapes: N nodes (users, then items), n triples of a batch, D_k dimensions of version k.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from backstay.compat.losses import multi_step, single_step
from backstay.datasets.timeline import Step
from backstay.errors import TrainingError, UsageError
from backstay.models.graph import Graph
from backstay.training.sampling import TripleSampler
from backstay.training.workers import ALONE, Workers, global_mean_share

log = logging.getLogger("backstay.training")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and how fast to learn."""

    epochs: int = 500  # an epoch draws as many edges as the step has
    batch_size: int = 2048  # triples per optimiser step, over all workers together
    learning_rate: float = 1e-3  # of Adam, for the model and the map alike
    regularisation: float = 1e-2  # weight of ½(‖u‖² + ‖i⁺‖² + ‖i⁻‖²) per triple
    weight: float = 16.0  # λ of the alignment loss, for methods that align jointly
    evaluate_every: int = 10  # epochs between two looks at the score
    settle: float = 0.1  # share of the epochs in which a jointly aligned state is not yet kept
    keep: Literal["best", "last"] = "best"  # which evaluated state becomes the version
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, found {getattr(self, name)}.")
        for name in ("learning_rate", "regularisation", "weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} must not be negative, found {getattr(self, name)}.")


class Aligner(nn.Module):
    """A linear map B_k that is learned, with the loss that says how well it leads back."""

    target: Tensor

    def __init__(
        self,
        dim: int,
        *,
        target: Tensor,
        older_maps: Sequence[Tensor] = (),
        loss: Literal["single", "multi"] = "multi",
        seed: int = 42,
    ) -> None:
        """Align D_k = `dim` to `target`.

        `target` is z_{k-1} (N, D_{k-1}) of M_{k-1} in evaluation mode on the training graph;
        `older_maps` are B_{k-1}, …, B_1 as (D_{j-1}, D_j), newest first, never trained.
        """
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.matrix = nn.Linear(dim, target.shape[1], bias=False).weight
        # Buffers, so that they follow the module to a device; not state, since nothing learns them.
        self.register_buffer("target", target.detach(), persistent=False)
        for n, matrix in enumerate(older_maps):
            self.register_buffer(f"older_{n}", matrix.detach(), persistent=False)
        self._depth = len(older_maps)
        self._loss = loss

    def residual(self, z: Tensor, nodes: Tensor | None = None) -> Tensor:
        """z_{k-1} - B_k z_k, (n, D_{k-1}), where row r of `z` is node `nodes[r]`, or node r."""
        target = self.target if nodes is None else self.target.index_select(0, nodes)
        return target - z @ self.matrix.T

    def loss(self, z: Tensor, nodes: Tensor) -> Tensor:
        """The alignment loss of the rows `z` (n, D_k) of some nodes: scalar."""
        residual = self.residual(z, nodes)
        if self._loss == "single":
            return single_step(residual)
        return multi_step(residual, [getattr(self, f"older_{n}") for n in range(self._depth)])


@dataclass
class FitState:
    """All that a fit needs to go on from where it was; holds tensors and plain values only."""

    epoch: int = 0  # epochs done
    seconds: float = 0.0  # spent so far, earlier runs of the same fit included
    best_score: float = -math.inf
    best: dict[str, Tensor] = field(default_factory=dict)  # the kept state of model and map
    curve: list[dict[str, float]] = field(default_factory=list)  # one entry per evaluation
    learner: dict[str, Any] = field(default_factory=dict)  # weights, optimiser, random state


def fit(
    step: Step,
    graph: Graph,
    *,
    model: nn.Module,
    aligner: Aligner | None,
    config: FitConfig,
    score: Callable[[Tensor], float] | None,
    learn_model: bool = True,
    workers: Workers = ALONE,
    state: FitState | None = None,
    checkpoint: Callable[[FitState], None] | None = None,
) -> FitState:
    """Train `model`, or `aligner`, or both together, in place; they end in the kept state.

    With `learn_model` the loss is BPR plus regularisation, and λ·alignment where there is an
    aligner. Without it the model stays as it is and the aligner alone is fitted (post-hoc).

    `score` rates the nodes' vectors (N, D_k), more is better: the validation recall. A post-hoc
    map is rated by its own single-step error instead. Without a score (nothing to validate on)
    the last state is kept. `checkpoint` is called after every evaluation; a returned state that
    is passed in again as `state` continues the fit as if nothing had happened.

    Raises TrainingError where the loss stops being finite.
    """
    if workers.size > config.batch_size:
        raise UsageError(
            f"{workers.size} workers can't share batches of {config.batch_size}; "
            "raise batch_size or start fewer workers."
        )
    learner = _Learner(step, graph, model, aligner, config, learn_model=learn_model)
    state = state or FitState()
    if state.learner:
        learner.restore(state.learner)
    steps_per_epoch = max(1, math.ceil(len(step.train) / config.batch_size))
    settle = config.settle * config.epochs if learn_model and aligner else 0
    started = time.perf_counter() - state.seconds
    while state.epoch < config.epochs:
        totals = [learner.step(workers) for _ in range(steps_per_epoch)]
        state.epoch += 1
        if state.epoch % config.evaluate_every and state.epoch != config.epochs:
            continue
        point = {"epoch": float(state.epoch)}
        point["loss"], point["alignment"] = (
            sum(column) / len(totals) for column in zip(*totals, strict=True)
        )
        if not math.isfinite(point["loss"]):
            raise TrainingError(
                f"the loss is {point['loss']} after epoch {state.epoch}; "
                f"lower the learning rate ({config.learning_rate}) or the weight ({config.weight})."
            )
        value = learner.score(score)
        if value is not None:
            point["score"] = value
        point["seconds"] = state.seconds = time.perf_counter() - started
        state.curve.append(point)
        eligible = state.epoch >= settle or state.epoch == config.epochs
        if eligible and (config.keep == "last" or value is None or value > state.best_score):
            state.best_score = -math.inf if value is None else value
            state.best = learner.snapshot()
        state.learner = learner.dump()
        if workers.leads:
            log.info(
                "epoch %d of %d: loss %.4f, alignment %.4f, score %s, %.1f s",
                state.epoch,
                config.epochs,
                point["loss"],
                point["alignment"],
                "–" if value is None else f"{value:.4f}",
                state.seconds,
            )
        if checkpoint:
            checkpoint(state)
    learner.keep(state.best)
    return state


@torch.no_grad()
def embed(model: nn.Module, graph: Graph) -> Tensor:
    """The vectors of every node of a graph, by a model in evaluation mode: (N, D)."""
    training = model.training
    model.eval()
    z: Tensor = model(graph)
    model.train(training)
    return z


class _Learner:
    """Model, map, optimiser and sampler: what a step of the loop changes."""

    def __init__(
        self,
        step: Step,
        graph: Graph,
        model: nn.Module,
        aligner: Aligner | None,
        config: FitConfig,
        *,
        learn_model: bool,
    ) -> None:
        self._graph, self._model, self._aligner = graph, model, aligner
        self._config, self._learn_model = config, learn_model
        self._device = graph.device
        self._sampler = TripleSampler(step, seed=config.seed)
        self._fixed = None if learn_model else embed(model, graph)
        learned = nn.ModuleDict({"model": model} if learn_model else {})
        if aligner is not None:
            learned["aligner"] = aligner
        self._learned = learned
        self._optimiser = torch.optim.Adam(
            learned.parameters(), lr=config.learning_rate, fused=True
        )
        learned.train()

    def step(self, workers: Workers) -> tuple[float, float]:
        """One optimiser step; returns this worker's share of loss and alignment."""
        drawn = self._sampler.draw(self._config.batch_size)
        batch = drawn.shard(workers.rank, workers.size)
        nodes = batch.nodes(self._graph.n_users).to(self._device)
        z = self._model(self._graph) if self._fixed is None else self._fixed
        z = z.index_select(0, nodes)
        alignment = z.new_zeros(())
        if self._aligner is not None:
            # The sum over users, positive and negative items of their means: all are equally many.
            alignment = 3 * self._aligner.loss(z, nodes)
        if self._learn_model:
            ranking = _ranking_loss(*z.chunk(3), weight=self._config.regularisation)
            loss = ranking + self._config.weight * alignment
        else:
            loss = alignment
        loss = global_mean_share(loss, len(batch.users), self._config.batch_size)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        workers.add_gradients(self._learned.parameters())
        self._optimiser.step()
        return float(loss.detach()) * workers.size, float(alignment.detach())

    def score(self, score: Callable[[Tensor], float] | None) -> float | None:
        if self._fixed is not None and self._aligner is not None:
            with torch.no_grad():
                return -float(single_step(self._aligner.residual(self._fixed)))
        return score(embed(self._model, self._graph)) if score else None

    def snapshot(self) -> dict[str, Tensor]:
        return copy.deepcopy(self._learned.state_dict())

    def keep(self, snapshot: dict[str, Tensor]) -> None:
        self._learned.load_state_dict(snapshot)
        self._learned.eval()

    def dump(self) -> dict[str, Any]:
        return {
            "learned": self.snapshot(),
            "optimiser": copy.deepcopy(self._optimiser.state_dict()),
            "generator": self._sampler.generator.get_state(),
        }

    def restore(self, dumped: dict[str, Any]) -> None:
        self._learned.load_state_dict(dumped["learned"])
        self._optimiser.load_state_dict(dumped["optimiser"])
        self._sampler.generator.set_state(dumped["generator"])


def _ranking_loss(users: Tensor, positives: Tensor, negatives: Tensor, *, weight: float) -> Tensor:
    """BPR with its regularisation, over rows of shape (n, D): scalar (design, section 3)."""
    difference = (users * (positives - negatives)).sum(1)
    norms = sum(rows.square().sum(1) for rows in (users, positives, negatives))
    return (functional.softplus(-difference) + weight * 0.5 * norms).mean()
