"""Cost against size: one update of version 1 on marketplaces, step by step and by two workers."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from _process import cached, in_fresh_process, in_fresh_processes, log, mark

from backstay.compat.methods import find_method
from backstay.datasets.dataset import Attributes, Dataset, Interactions
from backstay.datasets.marketplace import MarketplaceConfig, generate
from backstay.datasets.timeline import SLICES, Step, step
from backstay.evaluation.metrics.alignment import alignment_error
from backstay.evaluation.metrics.ranking import recall_score
from backstay.models.architectures import build_model, model_weights
from backstay.models.protocol import ModelConfig
from backstay.models.trained import TrainedModel
from backstay.training.alignment import Alignment, fresh_map
from backstay.training.config import FAST
from backstay.training.learner import Learner, Networks
from backstay.training.memory import peak_memory
from backstay.training.phase_timer import PhaseTimer
from backstay.training.prepared import Prepared, prepare
from backstay.training.request import FitRequest, Predecessor, VersionPlan
from backstay.training.warm_start import inherit, keep_first
from backstay.training.workers import ALONE, Workers, current_workers

Mode = Literal["full", "neighbours"]

USER_SHARE, ITEM_SHARE = 20, 100  # interactions per user and per item
OLD_DIM, DIM, LAYERS = 256, 320, 2  # of versions 0 and 1 in the paper
FULL_NODES = 100_000
"""Nodes up to which the whole graph is measured beside sampled neighbours."""

WARM_UP = 2
"""Steps that don't count."""


@dataclass(frozen=True)
class Cost:
    """What an update of version 1 costs, in seconds and MB of 10⁶ bytes."""

    nodes: int
    edges: int
    read: float  # the dataset folder, and the step of the timeline
    prepare: float  # graph and alignment target
    step: float  # the median
    step_cpu: float  # the mean of the processor's seconds, which a busy machine disturbs less
    steps: int  # of the whole update with the fast recipe
    inference: float  # once, all nodes
    evaluation: float  # once, inference included
    refresh: float  # batch-norm statistics of the averaged weights, before each evaluation
    evaluations: int  # of the whole update
    finish: float  # z, its conversion, z_0* and the alignment error, as a publication needs them
    base_mb: float  # before anything is read
    peak_mb: float  # greatest resident memory over all of it
    batch_size: int

    @property
    def per_million_edges(self) -> float:
        """Seconds of training for a million edges that are drawn."""
        return self.step * 1e6 / self.batch_size

    @property
    def extrapolated(self) -> float:
        """Seconds of the whole update: what was measured once, times how often it is done."""
        learning = self.steps * self.step
        judging = self.evaluations * (self.refresh + self.evaluation)
        return self.read + self.prepare + learning + judging + self.finish


class Timer:
    """Seconds under names."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
        log(f"  {name}: {self.seconds[name]:.1f} s")


@dataclass(frozen=True)
class Update:
    """An update of version 1, ready to take its steps as `fit_version` would."""

    step: Step
    attributes: Attributes
    previous: Predecessor
    prepared: Prepared
    learner: Learner

    @classmethod
    def begin(cls, folder: Path, mode: Mode, *, timer: Timer, device: str) -> "Update":
        """Read, prepare, and start warm from a version 0 of random weights."""
        with timer("read"):
            data = Dataset.open(folder)
            interactions = data.interactions()
            attributes = data.attributes(interactions.item_ids)
            slice_ = step(interactions, 1, SLICES[1], SLICES[2])
        previous = Predecessor(_random_version(interactions, attributes), ())
        fit = replace(FAST, sampling=mode)
        plan = VersionPlan(method=find_method("bc-aligner"), dim=DIM, layers=LAYERS, fit=fit)
        with timer("prepare"):
            request = FitRequest(step=slice_, attributes=attributes, plan=plan, previous=previous)
            prepared = prepare(request, device=device)
        sizes = tuple(len(values) for values in prepared.vocabulary.values())
        model = build_model(ModelConfig(dim=DIM, layers=LAYERS, values=sizes), seed=0).to(device)
        older = previous.model
        inherit(
            model,
            older.load(),
            vocabulary=prepared.vocabulary,
            older_vocabulary=older.vocabulary,
        )
        backward = fresh_map(DIM, OLD_DIM, seed=0)
        keep_first(backward)
        learner = Learner(
            prepared.snapshot,
            Networks(
                model=model,
                alignment=Alignment(),
                backward=backward.to(device),
                teacher=prepared.teacher(previous),
            ),
            fit.warm(),
            device=torch.device(device),
            timer=PhaseTimer(),
        )
        return cls(slice_, attributes, previous, prepared, learner)

    def take(self, number: int, workers: Workers = ALONE) -> float:
        """Seconds of step `number`."""
        started = time.perf_counter()
        figures, _ = self.learner.step(number, workers, progress=0.5)
        figures.tolist()  # as the loop does: waits for a device
        return time.perf_counter() - started


def _random_version(interactions: Interactions, attributes: Attributes) -> TrainedModel:
    """Version 0 with random weights: the cost of a step does not depend on the weights."""
    items = int(interactions.items[: int(SLICES[0] * len(interactions))].max()) + 1
    vocabulary = attributes.vocabulary(items=items)
    sizes = tuple(len(values) for values in vocabulary.values())
    config = ModelConfig(dim=OLD_DIM, layers=LAYERS, values=sizes)
    return TrainedModel(config, model_weights(build_model(config, seed=0)), vocabulary)


def measure(folder: Path, mode: Mode, *, steps: int, device: str) -> Cost:
    """Everything an update does, each thing once and `steps` steps."""
    timer = Timer()
    with peak_memory() as base:
        pass
    with peak_memory() as peak:
        update = Update.begin(folder, mode, timer=timer, device=device)
        learner, slice_ = update.learner, update.step
        for number in range(WARM_UP):
            update.take(number)
        busy = time.process_time()
        taken = [update.take(WARM_UP + number) for number in range(steps)]
        step_cpu = (time.process_time() - busy) / steps
        log(f"  a step: {statistics.median(taken):.3f} s, {step_cpu:.3f} s of the processor")
        score = recall_score(slice_)
        with timer("refresh"):
            learner.refresh_batch_norm()
        with timer("evaluation"):
            learner.evaluate(score)
        state = learner.checkpoint()
        with timer("finish"):
            inference = _finish(update, state, timer, device=device)
    fit = replace(FAST, sampling=mode).warm()
    edges = len(slice_.train)
    epoch, whole = fit.steps(edges, sampled=mode == "neighbours")
    return Cost(
        nodes=slice_.n_users + slice_.n_items,
        edges=edges,
        read=timer.seconds["read"],
        prepare=timer.seconds["prepare"],
        step=statistics.median(taken),
        step_cpu=step_cpu,
        steps=whole,
        inference=inference,
        evaluation=timer.seconds["evaluation"],
        refresh=timer.seconds["refresh"],
        evaluations=-(-whole // (epoch * fit.evaluate_every)),
        finish=timer.seconds["finish"],
        base_mb=base.rss_mb,
        peak_mb=peak.rss_mb,
        batch_size=fit.triples(sampled=mode == "neighbours"),
    )


def _finish(update: Update, state: dict[str, torch.Tensor], timer: Timer, *, device: str) -> float:
    """Embed, convert and judge as a publication does; seconds of the inference alone."""
    weights = {
        name.removeprefix("model."): value.cpu().numpy()
        for name, value in state.items()
        if name.startswith("model.")
    }
    prepared = update.prepared
    sizes = tuple(len(values) for values in prepared.vocabulary.values())
    model = TrainedModel(
        ModelConfig(dim=DIM, layers=LAYERS, values=sizes), weights, prepared.vocabulary
    )
    with timer("inference"):
        z = model.embed(update.step, update.attributes, device=device)
    found = z @ state["backward.weight"].cpu().numpy().T
    reference = update.previous.model.embed(update.step, update.attributes, device=device)
    alignment_error([found], [reference])
    return timer.seconds["inference"]


def market(work: Path, interactions: int) -> Path:
    """The marketplace's folder, made if it isn't there."""
    folder = work / "datasets" / f"marketplace-{interactions}"
    if not folder.exists():
        log(f"{folder.name}: made")
        config = MarketplaceConfig(
            interactions=interactions,
            users=interactions // USER_SHARE,
            items=interactions // ITEM_SHARE,
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        generate(config, folder)
    return folder


def costs(
    sizes: Sequence[int], *, work: Path, steps: int, threads: int, device: str
) -> Iterator[tuple[int, Mode, Cost]]:
    """What an update costs at each size, in every mode that is sensible there."""
    for interactions in sizes:
        folder = market(work, interactions)
        nodes = interactions // USER_SHARE + interactions // ITEM_SHARE
        modes: list[Mode] = ["neighbours", "full"] if nodes <= FULL_NODES else ["neighbours"]
        for mode in modes:
            call = partial(measure, folder, mode, steps=steps, device=device)
            name = f"scaling-{interactions}-{mode}-{steps}-steps-{threads}-threads-{device}"
            run = partial(in_fresh_process, call, threads=threads)
            yield interactions, mode, cached(work / f"{name}-{mark(FAST)}.pickle", run)


@dataclass(frozen=True)
class Pace:
    """What each of some workers of one thread managed."""

    step: float  # seconds, the mean over a run: workers wait for each other in every step
    peak_mb: float  # of the worker that needed most
    total_mb: float  # the sum over the workers
    batch_size: int = FAST.triples(sampled=True)


def work_together(folder: Path, *, rank: int, size: int, meeting: Path, steps: int) -> Pace:
    """One worker's part of some steps; they meet through a file."""
    if size > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    with peak_memory() as peak:
        workers = current_workers()
        update = Update.begin(folder, "neighbours", timer=Timer(), device="cpu")
        for number in range(WARM_UP):
            update.take(number, workers)
        if size > 1:
            dist.barrier()
        taken = [update.take(WARM_UP + number, workers) for number in range(steps)]
    if size > 1:
        dist.destroy_process_group()
    return Pace(statistics.fmean(taken), peak.rss_mb, peak.rss_mb)


def together(folder: Path, *, size: int, steps: int) -> Pace:
    """`size` workers at once, each a process of one thread."""
    with tempfile.TemporaryDirectory() as scratch:
        calls: list[Callable[[], Pace]] = [
            partial(
                work_together,
                folder,
                rank=rank,
                size=size,
                meeting=Path(scratch) / "meeting",
                steps=steps,
            )
            for rank in range(size)
        ]
        paces = in_fresh_processes(calls, threads=1)
    return Pace(
        max(pace.step for pace in paces),
        max(pace.peak_mb for pace in paces),
        sum(pace.peak_mb for pace in paces),
    )


def paces(interactions: int, *, work: Path, steps: int, repeats: int) -> dict[int, list[Pace]]:
    """One worker and two, in turn."""
    folder = market(work, interactions)
    found: dict[int, list[Pace]] = {1: [], 2: []}
    for turn in range(repeats):
        for size, runs in found.items():
            name = f"workers-{interactions}-{steps}-steps-{size}-turn-{turn}"
            run = partial(together, folder, size=size, steps=steps)
            runs.append(cached(work / f"{name}-{mark(FAST)}.pickle", run))
    return found


def cost_record(interactions: int, mode: Mode, cost: Cost) -> dict[str, Any]:
    """A size and a mode as JSON has it."""
    return {
        "interactions": interactions,
        "mode": mode,
        "workers": 1,
        "seconds_per_million_edges": cost.per_million_edges,
        "peak_mb": cost.peak_mb,
        "extrapolated_update_seconds": cost.extrapolated,
        "seconds": {
            name: getattr(cost, name)
            for name in (
                "read",
                "prepare",
                "step",
                "step_cpu",
                "inference",
                "evaluation",
                "refresh",
                "finish",
            )
        },
        **{
            name: getattr(cost, name)
            for name in ("nodes", "edges", "steps", "evaluations", "base_mb", "batch_size")
        },
    }


def pace_record(interactions: int, size: int, runs: Sequence[Pace]) -> dict[str, Any]:
    """A number of workers as JSON has it: medians over the turns."""
    step_seconds = statistics.median(run.step for run in runs)
    return {
        "interactions": interactions,
        "mode": "neighbours",
        "workers": size,
        "threads_per_worker": 1,
        "seconds_per_million_edges": step_seconds * 1e6 / runs[0].batch_size,
        "peak_mb": statistics.median(run.peak_mb for run in runs),
        "total_mb": statistics.median(run.total_mb for run in runs),
        "steps_per_second": 1 / step_seconds,
        "steps_per_second_of_each_turn": [1 / run.step for run in runs],
    }
