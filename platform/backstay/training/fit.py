"""The fitting loop: one for every update method, in plain torch.

It takes arrays and tensors, draws batches, and restores the checkpoint that its configuration
selects. It opens no file and uses no Ray: checkpoints and progress leave through two callbacks.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backstay.errors import TrainingError, UsageError
from backstay.models.snapshot import Snapshot
from backstay.training.config import FitConfig
from backstay.training.learner import Learner, LearnerState, Networks, Score
from backstay.training.phase_timer import PhaseTimer
from backstay.training.progress import Progress
from backstay.training.workers import ALONE, Workers

WATCH_SECONDS = 10.0
"""The longest time without a progress report, between evaluations."""


@dataclass
class FitState:
    """Everything that is needed to continue a fit; holds tensors and plain values only."""

    step: int = 0  # optimiser steps done
    seconds: float = 0.0  # spent so far, including earlier runs of the same fit
    phases: dict[str, float] = field(default_factory=dict)  # of them, seconds per phase
    losses: list[float] = field(default_factory=list)  # sums since the last evaluation, and steps
    best_score: float = -math.inf
    best: dict[str, Tensor] = field(default_factory=dict)  # the selected checkpoint
    curve: list[dict[str, float]] = field(default_factory=list)  # one entry per evaluation
    learner: LearnerState | None = None  # weights and optimiser


@dataclass(frozen=True, kw_only=True)
class FitCallbacks:
    """Callbacks of a fit, and when they are called."""

    checkpoint: Callable[[FitState], None] | None = None
    """Called after every evaluation, and `checkpoint_seconds` after the last call."""
    checkpoint_seconds: float = math.inf
    watch: Callable[[Progress], None] | None = None
    """Called by the leading worker after every evaluation, and every `WATCH_SECONDS`."""


def fit(
    snapshot: Snapshot,
    networks: Networks,
    config: FitConfig,
    *,
    score: Score | None = None,
    device: str | torch.device = "cpu",
    workers: Workers = ALONE,
    state: FitState | None = None,
    callbacks: FitCallbacks | None = None,
) -> FitState:
    """Train the networks in place, and restore the selected checkpoint.

    The loss is BPR plus regularisation, plus λ·alignment where there is an alignment. A post-hoc
    fit minimises the alignment alone.

    `score` rates the evaluated vectors; without one the last checkpoint is selected. A post-hoc map
    is rated by its own residual. `state` is one that `callbacks.checkpoint` was called with: the
    fit continues from it with the same result, with any number of workers.

    Raises TrainingError where the loss is no longer finite.
    """
    plan = _Plan.of(snapshot, config, networks)
    plan.check(workers)
    timer = PhaseTimer()
    loop = _Loop(
        plan=plan,
        learner=Learner(snapshot, networks, config, device=torch.device(device), timer=timer),
        timer=timer,
        workers=workers,
        state=state or FitState(),
        callbacks=callbacks or FitCallbacks(),
    )
    while loop.state.step < plan.steps:
        save = loop.train()
        if plan.evaluates(loop.state.step):
            loop.evaluate(score)
            save = True
        else:
            loop.report_if_due()
        if save:
            loop.save()
    return loop.finish()


@dataclass(frozen=True)
class _Plan:
    """A fit in steps."""

    config: FitConfig
    sampled: bool
    triples: int  # per step
    steps_per_epoch: int
    steps: int
    first_selected: float  # step before which no checkpoint is selected

    @classmethod
    def of(cls, snapshot: Snapshot, config: FitConfig, networks: Networks) -> "_Plan":
        sampled = networks.train_model and config.samples(snapshot.n_nodes)
        edges = int(snapshot.neighbours.starts[snapshot.n_users])
        epoch, steps = config.steps(edges, sampled=sampled)
        first_selected = config.selection_starts_after * steps if networks.joint else 0
        triples = config.triples(sampled=sampled)
        return cls(config, sampled, triples, epoch, steps, first_selected)

    def check(self, workers: Workers) -> None:
        config = self.config
        most, field_ = (
            (config.groups, "groups") if self.sampled else (config.batch_size, "batch_size")
        )
        if workers.size > most:
            raise UsageError(
                f"{field_}: expected at least one part of a batch per worker, found {most} parts "
                f"for {workers.size} workers. Raise {field_}, or start fewer workers."
            )

    def evaluates(self, step: int) -> bool:
        return step % (self.steps_per_epoch * self.config.evaluate_every) == 0 or step == self.steps

    def selects(self, state: FitState, score: float | None) -> bool:
        """Whether the checkpoint of this evaluation becomes the selected one."""
        if state.step < self.first_selected and state.step != self.steps:
            return False
        return self.config.keep == "last" or score is None or score > state.best_score


@dataclass(kw_only=True)
class _Loop:
    """The running fit: the learner, its state, and the times of the last report and checkpoint."""

    plan: _Plan
    learner: Learner
    timer: PhaseTimer
    workers: Workers
    state: FitState
    callbacks: FitCallbacks

    def __post_init__(self) -> None:
        self.timer.seconds = dict(self.state.phases)
        if self.state.learner:
            self.learner.restore(self.state.learner)
        self._started = time.perf_counter() - self.state.seconds
        self._saved = self._reported = time.perf_counter()

    def train(self) -> bool:
        """Take a step and add up its losses; returns whether a checkpoint is due."""
        state, config = self.state, self.plan.config
        late = time.perf_counter() - self._saved > self.callbacks.checkpoint_seconds
        figures, due = self.learner.step(
            state.step,
            self.workers,
            progress=state.step / self.plan.steps,
            flag=late and self.workers.leads,
        )
        state.step += 1
        loss, alignment = figures.tolist()
        if not math.isfinite(loss):
            raise TrainingError(
                f"expected a finite loss, found {loss} after step {state.step}; lower the learning "
                f"rate ({config.learning_rate}) or the weight ({config.weight})."
            )
        sums = state.losses or [0.0, 0.0, 0.0]
        state.losses = [sums[0] + loss, sums[1] + alignment, sums[2] + 1]
        return due

    def evaluate(self, score: Score | None) -> None:
        """Score the current state, add it to the curve, and select it if it is the best."""
        state, learner = self.state, self.learner
        loss, alignment, steps = state.losses
        epoch = state.step / self.plan.steps_per_epoch
        state.curve.append({"epoch": epoch, "loss": loss / steps, "alignment": alignment / steps})
        learner.refresh_batch_norm()
        found = learner.evaluate(score) if self.workers.leads else None
        value = self.workers.broadcast(found)
        self._count_seconds()
        state.curve[-1]["seconds"] = state.seconds
        if value is not None:
            state.curve[-1]["score"] = value
        if self.plan.selects(state, value):
            state.best_score = -math.inf if value is None else value
            state.best = learner.checkpoint()
        self._report(value)
        state.losses = []

    def report_if_due(self) -> None:
        """Report progress if the last report is `WATCH_SECONDS` ago."""
        if time.perf_counter() - self._reported > WATCH_SECONDS:
            self._count_seconds()
            self._report(None)

    def save(self) -> None:
        """Pass the state to the checkpoint callback."""
        if not self.callbacks.checkpoint:
            return
        self._count_seconds()
        self.state.phases, self.state.learner = dict(self.timer.seconds), self.learner.dump()
        with self.timer("checkpoint"):
            self.callbacks.checkpoint(self.state)
        self._saved = time.perf_counter()

    def finish(self) -> FitState:
        """Restore the selected checkpoint."""
        self._count_seconds()
        self.state.phases = dict(self.timer.seconds)
        self.learner.finish(self.state.best)
        return self.state

    def _count_seconds(self) -> None:
        self.state.seconds = time.perf_counter() - self._started

    def _report(self, score: float | None) -> None:
        self._reported = time.perf_counter()
        if not (self.callbacks.watch and self.workers.leads):
            return
        plan, state = self.plan, self.state
        loss, alignment, steps = state.losses
        training = state.seconds - self.timer.seconds.get("evaluation", 0.0)
        self.callbacks.watch(
            Progress(
                step=state.step,
                steps=plan.steps,
                epoch=state.step / plan.steps_per_epoch,
                epochs=plan.steps / plan.steps_per_epoch,
                loss=loss / steps,
                alignment=alignment / steps,
                rate=state.step * plan.triples / max(training, 1e-9),
                seconds=state.seconds,
                remaining=state.seconds * (plan.steps - state.step) / state.step,
                score=score,
            )
        )
