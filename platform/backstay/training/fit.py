"""The fitting loop: one for every update method, in plain torch.

It takes arrays and tensors, draws batches, and keeps the state that its configuration asks for.
It opens no file and knows no Ray: checkpoints and progress leave through two callbacks.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from backstay.errors import TrainingError, UsageError
from backstay.models.protocol import EmbeddingModel
from backstay.models.snapshot import Snapshot
from backstay.training.alignment import Alignment
from backstay.training.clock import Clock
from backstay.training.config import FitConfig
from backstay.training.extension import Extension
from backstay.training.known import Known
from backstay.training.learner import Learner, Score
from backstay.training.progress import Progress
from backstay.training.workers import ALONE, Workers

WATCH_SECONDS = 10.0
"""How often a fit tells where it is, between evaluations."""


@dataclass
class FitState:
    """All that a fit needs to go on from where it was; holds tensors and plain values only."""

    step: int = 0  # optimiser steps done
    seconds: float = 0.0  # spent so far, earlier runs of the same fit included
    phases: dict[str, float] = field(default_factory=dict)  # of them, seconds by what they did
    losses: list[float] = field(default_factory=list)  # sums since the last evaluation, and steps
    best_score: float = -math.inf
    best: dict[str, Tensor] = field(default_factory=dict)  # the kept state of model and map
    curve: list[dict[str, float]] = field(default_factory=list)  # one entry per evaluation
    learner: dict[str, Any] = field(default_factory=dict)  # weights and optimiser


def fit(
    snapshot: Snapshot,
    *,
    model: EmbeddingModel,
    config: FitConfig,
    alignment: Alignment | None = None,
    backward: nn.Linear | None = None,
    extension: Extension | None = None,
    known: Known | None = None,
    score: Score | None = None,
    learn_model: bool = True,
    device: str | torch.device = "cpu",
    workers: Workers = ALONE,
    state: FitState | None = None,
    checkpoint: Callable[[FitState], None] | None = None,
    checkpoint_seconds: float = math.inf,
    watch: Callable[[Progress], None] | None = None,
) -> FitState:
    """Train `model`, or the map `backward`, or both together, in place; they end in the kept state.

    With `learn_model` the loss is BPR plus regularisation, and λ·alignment where there is an
    alignment. Without it the model stays as it is and the map alone is fitted (post-hoc).

    `known` is z_{k-1}, which an alignment leads to. With an `extension` the vectors are made of
    the model's own and of `known`.

    `score` rates the nodes' vectors (N, D_k), more is better: the validation recall. A post-hoc
    map is rated by its own single-step error instead. Without a score (nothing to validate on)
    the last state is kept.

    `checkpoint` is called after every evaluation, and `checkpoint_seconds` after the last call; a
    state that it was given and that is passed in again as `state` continues the fit as if nothing
    had happened, with any number of workers.

    Raises TrainingError where the loss stops being finite.
    """
    sampled = learn_model and config.samples(snapshot.n_nodes)
    most, what = (config.groups, "groups") if sampled else (config.batch_size, "batch_size")
    if workers.size > most:
        raise UsageError(
            f"{workers.size} workers can't share batches of {most} parts; "
            f"raise {what} or start fewer workers."
        )
    state, clock = state or FitState(), Clock()
    clock.seconds = dict(state.phases)
    learner = Learner(
        snapshot,
        model,
        alignment,
        backward,
        config,
        extension=extension,
        known=known,
        learn_model=learn_model,
        device=torch.device(device),
        clock=clock,
    )
    if state.learner:
        learner.restore(state.learner)
    joint = learn_model and alignment is not None
    plan = _Plan.of(snapshot, config, sampled=sampled, joint=joint)
    started = time.perf_counter() - state.seconds
    saved = told = time.perf_counter()

    def tell(value: float | None) -> None:
        if watch and workers.leads:
            watch(plan.progress(state, clock, value))

    while state.step < plan.steps:
        late = time.perf_counter() - saved > checkpoint_seconds
        figures, due = learner.step(
            state.step, workers, progress=state.step / plan.steps, wish=late and workers.leads
        )
        _count(state, figures, config)
        if plan.evaluates(state.step):
            value = workers.hear(_judge(learner, score, plan, state, leads=workers.leads))
            state.seconds = time.perf_counter() - started
            _keep(learner, plan, state, value)
            tell(value)
            told = time.perf_counter()
            state.losses = []
        elif time.perf_counter() - told > WATCH_SECONDS:
            state.seconds = time.perf_counter() - started
            told = time.perf_counter()
            tell(None)
        if checkpoint and (due or plan.evaluates(state.step)):
            state.seconds = time.perf_counter() - started
            state.phases, state.learner = dict(clock.seconds), learner.dump()
            with clock("checkpoint"):
                checkpoint(state)
            saved = time.perf_counter()
    state.seconds, state.phases = time.perf_counter() - started, dict(clock.seconds)
    learner.keep(state.best)
    return state


def _count(state: FitState, figures: Tensor, config: FitConfig) -> None:
    """Count a step and its losses."""
    state.step += 1
    loss, alignment = figures.tolist()
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} after step {state.step}; lower the learning rate "
            f"({config.learning_rate}) or the weight ({config.weight})."
        )
    sums = state.losses or [0.0, 0.0, 0.0]
    state.losses = [sums[0] + loss, sums[1] + alignment, sums[2] + 1]


def _judge(
    learner: Learner, score: Score | None, plan: "_Plan", state: FitState, *, leads: bool
) -> float | None:
    """Begin an entry of the curve, and rate the state if this worker leads."""
    state.curve.append(plan.point(state))
    learner.settle()
    return learner.judge(score) if leads else None


def _keep(learner: Learner, plan: "_Plan", state: FitState, value: float | None) -> None:
    """Finish the entry, and keep the state if it is to be kept."""
    state.curve[-1]["seconds"] = state.seconds
    if value is not None:
        state.curve[-1]["score"] = value
    better = value is None or value > state.best_score
    if plan.eligible(state.step) and (plan.config.keep == "last" or better):
        state.best_score = -math.inf if value is None else value
        state.best = learner.kept()


@dataclass(frozen=True)
class _Plan:
    """A fit in steps."""

    config: FitConfig
    triples: int  # of a step
    steps_per_epoch: int
    steps: int
    settle: float  # share of the steps in which no state is kept

    @classmethod
    def of(cls, snapshot: Snapshot, config: FitConfig, *, sampled: bool, joint: bool) -> "_Plan":
        edges = int(snapshot.neighbours.starts[snapshot.n_users])
        epoch, steps = config.steps(edges, sampled=sampled)
        settle = config.settle if joint else 0
        return cls(config, config.triples(sampled=sampled), epoch, steps, settle)

    def evaluates(self, step: int) -> bool:
        return step % (self.steps_per_epoch * self.config.evaluate_every) == 0 or step == self.steps

    def eligible(self, step: int) -> bool:
        return step >= self.settle * self.steps or step == self.steps

    def point(self, state: FitState) -> dict[str, float]:
        """An entry of the curve, as far as the losses tell it."""
        loss, alignment, steps = state.losses
        epoch = state.step / self.steps_per_epoch
        return {"epoch": epoch, "loss": loss / steps, "alignment": alignment / steps}

    def progress(self, state: FitState, clock: Clock, score: float | None) -> Progress:
        loss, alignment, steps = state.losses
        learning = state.seconds - clock.seconds.get("evaluation", 0.0)
        return Progress(
            step=state.step,
            steps=self.steps,
            epoch=state.step / self.steps_per_epoch,
            epochs=self.steps / self.steps_per_epoch,
            loss=loss / steps,
            alignment=alignment / steps,
            rate=state.step * self.triples / max(learning, 1e-9),
            seconds=state.seconds,
            remaining=state.seconds * (self.steps - state.step) / state.step,
            score=score,
        )
