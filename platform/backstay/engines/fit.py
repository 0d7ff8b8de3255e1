"""Fitting one version: on Ray Train with workers, or in this process when the data is small."""

import logging
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from backstay.datasets.dataset import Attributes
from backstay.datasets.timeline import Step
from backstay.errors import TrainingError
from backstay.evaluation.memory import peak_memory
from backstay.evaluation.ranking import RankingTask
from backstay.registry.files import Files
from backstay.training.fit import FitState
from backstay.training.learner import Score
from backstay.training.progress import Progress, Watch
from backstay.training.version import (
    FittedVersion,
    Predecessor,
    Prepared,
    VersionPlan,
    fit_version,
    prepare,
)
from backstay.training.workers import current_workers

log = logging.getLogger("backstay.fit")

STATE_FILE = "state.pt"
THREADS_PAY = 1_000_000
"""Numbers in the vectors of all nodes from which more threads than one are worth their talking."""

RESTARTS = 3
"""How often Ray Train replaces a lost worker before it gives up."""

JUDGED_USERS = 20_000
"""Most users who judge a version; their mean recall has a standard error below 0.003."""

CHECKPOINT_SECONDS = 120.0
"""Longest work that a crash may cost, beside evaluations."""


@dataclass(frozen=True)
class Problem:
    """Everything a worker needs: arrays and plain values."""

    step: Step
    attributes: Attributes
    plan: VersionPlan
    previous: Predecessor | None

    def prepare(self, *, device: str = "cpu") -> Prepared:
        """The constant inputs of the fit."""
        return prepare(self.step, self.attributes, self.plan, previous=self.previous, device=device)

    def solve(self, *, leads: bool = True, **options: Any) -> FittedVersion:
        """Fit the version; only the leading worker spends time on judging."""
        score = recall_score(self.step) if leads else None
        with peak_memory() as peak:
            fitted = fit_version(
                self.step,
                self.attributes,
                self.plan,
                previous=self.previous,
                score=score,
                **options,
            )
        return replace(fitted, peak_rss_mb=peak.rss_mb)


def recall_score(step: Step) -> Score | None:
    """Validation Recall@50 of a step as the loop's score; None where nothing validates."""
    task = RankingTask.of(step, most_users=JUDGED_USERS)
    if not len(task.users):
        return None
    return lambda z: task.recall(z[: step.n_users], z[step.n_users :]).mean


def fit_here(
    problem: Problem,
    *,
    files: Files,
    folder: str,
    gpu: bool = False,
    watch: Watch | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> FittedVersion:
    """Fit in this process, without Ray; resumes from the checkpoint in `folder` of `files`."""
    path = f"{folder}/{STATE_FILE}"
    states = _load(BytesIO(files.read(path))) if files.exists(path) else None
    if states:
        log.info("resuming from the checkpoint in %s", files.full(folder))

    def checkpoint(states: dict[str, FitState]) -> None:
        buffer = BytesIO()
        _save(states, buffer)
        files.write(path, buffer.getvalue())

    with _threads(problem):
        return problem.solve(
            device=_device(gpu=gpu),
            states=states,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            watch=watch,
        )


def fit_on_ray(
    problem: Problem,
    *,
    name: str,
    storage: str,
    workers: int | tuple[int, int],
    gpu: bool = False,
    watch: Watch | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> FittedVersion:
    """Fit on Ray Train with data-parallel workers; the same `name` and `storage` resume.

    One worker prepares the graph and the alignment target, and all share them through the object
    store. Each takes its part of every batch, and gradients are summed, so the number of workers
    doesn't change what is learned: with a pair of numbers it may move between the two, as
    machines come and go.
    """
    # Many seconds to load, which fitting in this process does without.
    import ray  # noqa: PLC0415
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415
    from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415

    from backstay.engines.session import ray_session  # noqa: PLC0415

    with ray_session():
        shared = ray.put(problem)
        prepared = ray.remote(num_gpus=int(gpu))(_prepare).remote(shared, gpu=gpu)
        with _listener(watch) as listener:
            trainer = TorchTrainer(
                _work,
                train_loop_config={
                    "problem": shared,
                    "prepared": prepared,
                    "gpu": gpu,
                    "listener": listener,
                    "checkpoint_seconds": checkpoint_seconds,
                },
                torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
                scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
                run_config=RunConfig(
                    name=name,
                    storage_path=storage,
                    failure_config=FailureConfig(max_failures=RESTARTS),
                    checkpoint_config=CheckpointConfig(num_to_keep=2),
                ),
            )
            try:
                result = trainer.fit()
            except ray.train.TrainingFailedError as error:
                raise TrainingError(
                    f"the training workers failed more than {RESTARTS} times: {error}. "
                    "Once the cause is mended, the same command resumes from the last checkpoint."
                ) from error
        fitted: FittedVersion = result.return_value
        return fitted


def _prepare(problem: Problem, *, gpu: bool) -> Prepared:
    return problem.prepare(device=_device(gpu=gpu))


def _work(config: dict[str, Any]) -> FittedVersion:
    """What each Ray Train worker runs."""
    import ray  # noqa: PLC0415
    from ray import train  # noqa: PLC0415

    workers = current_workers()
    states = None
    if found := train.get_checkpoint():
        with found.as_directory() as folder, (Path(folder) / STATE_FILE).open("rb") as file:
            states = _load(file)

    def checkpoint(states: dict[str, FitState]) -> None:
        # Every worker reports, since Ray Train waits for all; the leader's file is the checkpoint.
        phase, state = next(reversed(states.items()))
        metrics = {"phase": phase, "step": state.step, **(state.curve[-1] if state.curve else {})}
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if workers.leads:
                with (Path(folder) / STATE_FILE).open("wb") as file:
                    _save(states, file)
                saved = train.Checkpoint.from_directory(folder)
            train.report(metrics, checkpoint=saved)

    listener = config["listener"]
    problem: Problem
    problem, prepared = ray.get([config["problem"], config["prepared"]])
    return problem.solve(
        leads=workers.leads,
        workers=workers,
        prepared=prepared,
        device=_device(gpu=config["gpu"]),
        states=states,
        checkpoint=checkpoint,
        checkpoint_seconds=config["checkpoint_seconds"],
        watch=listener and listener.tell.remote,
    )


class _Listener:
    """Keeps what the leading worker tells until the driver asks."""

    def __init__(self) -> None:
        self._told: list[tuple[str, Progress]] = []

    def tell(self, phase: str, progress: Progress) -> None:
        self._told.append((phase, progress))

    def take(self) -> list[tuple[str, Progress]]:
        told, self._told = self._told, []
        return told


@contextmanager
def _listener(watch: Watch | None) -> Iterator[Any]:
    """An actor that workers tell their progress, passed on to `watch` in this process."""
    import ray  # noqa: PLC0415

    if watch is None:
        yield None
        return
    listener = ray.remote(num_cpus=0)(_Listener).remote()
    over = threading.Event()

    def pass_on() -> None:
        last = False
        while not last:
            last = over.wait(1.0)
            for phase, progress in ray.get(listener.take.remote()):
                watch(phase, progress)

    thread = threading.Thread(target=pass_on, name="progress", daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        over.set()
        thread.join(timeout=10)


def _save(states: dict[str, FitState], file: Any) -> None:
    torch.save({phase: vars(state) for phase, state in states.items()}, file)


def _load(file: Any) -> dict[str, FitState]:
    # weights_only: tensors and plain values; nothing in the file can run
    loaded = torch.load(file, weights_only=True, map_location="cpu")
    return {phase: FitState(**state) for phase, state in loaded.items()}


def _device(*, gpu: bool) -> str:
    if not gpu:
        return "cpu"
    if not torch.cuda.is_available():
        raise TrainingError("asked for a GPU, and torch finds none here; leave --gpu out.")
    return "cuda"


@contextmanager
def _threads(problem: Problem) -> Iterator[None]:
    """One thread for small matrices: handing them to a second one costs more than it saves.

    On a busy machine a hundred times more, since the threads of a product wait for each other.
    """
    before = torch.get_num_threads()
    if (problem.step.n_users + problem.step.n_items) * problem.plan.dim < THREADS_PAY:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
