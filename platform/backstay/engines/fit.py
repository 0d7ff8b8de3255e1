"""Fitting one version: on Ray Train with workers, or in this process when the data is small."""

import logging
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from backstay.datasets.dataset import Attributes
from backstay.datasets.timeline import Step
from backstay.engines.watch import relay
from backstay.errors import BackstayError, TrainingError
from backstay.evaluation.metrics.ranking import recall_score
from backstay.storage.files import Files
from backstay.training.fit import FitState
from backstay.training.memory import peak_memory
from backstay.training.progress import Watch
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

CHECKPOINT_SECONDS = 120.0
"""Longest work that a crash may cost, beside evaluations."""

REPORT_SECONDS = 2.0
"""How often Ray Train looks for reports; whoever makes the next one sooner waits."""

RESIZE_SECONDS = 60.0
"""How often a fit that may grow or shrink looks at the machines there are; a change restarts it."""


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
        log.info("%s, in %s", _begin(1, states), files.full(folder))

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
    files: Files,
    folder: str,
    workers: int | tuple[int, int],
    gpu: bool = False,
    watch: Watch | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> FittedVersion:
    """Fit on Ray Train with data-parallel workers; resumes from a checkpoint in `folder`.

    A task prepares the graph and the alignment target, and all workers share them through the
    object store. Each takes its part of every batch, and gradients are summed, so the number of
    workers doesn't change what is learned: with a pair of numbers it may move between the two, as
    machines come and go.
    """
    # Many seconds to load, which fitting in this process does without.
    import ray  # noqa: PLC0415
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415
    from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415

    from backstay.engines.session import ray_session  # noqa: PLC0415

    with ray_session(), relay(watch) if watch else nullcontext() as inbox:
        shared = ray.put(problem)
        prepared = ray.remote(_prepare).options(num_gpus=int(gpu)).remote(shared, gpu=gpu)
        # A copy that this process owns: no lost machine takes it along, and no task has to make it
        # again while the workers that wait for it hold every processor.
        try:
            prepared = ray.put(ray.get(prepared))
        except ray.exceptions.WorkerCrashedError as error:
            raise TrainingError(
                "the process that prepares the graph died again and again, for want of memory as a "
                "rule; give it a machine with more."
            ) from error
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "problem": shared,
                "prepared": prepared,
                "gpu": gpu,
                "inbox": inbox,
                "checkpoint_seconds": checkpoint_seconds,
            },
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpu,
                elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            ),
            run_config=RunConfig(
                name=folder,
                storage_path=files.root,
                # Ray's own file systems know fewer places, and their drivers other credentials.
                storage_filesystem=None if files.is_local else _filesystem(files),
                failure_config=FailureConfig(max_failures=RESTARTS),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        # Ray would turn Ctrl-C into a successful exit, and keep it for the rest of the process.
        trainer._register_sigint_handler = lambda _controller: None  # noqa: SLF001
        try:
            fitted: FittedVersion | BackstayError = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise _failure(error) from error
        if isinstance(fitted, BackstayError):
            raise fitted
        return fitted


def _prepare(problem: Problem, *, gpu: bool) -> Prepared:
    return problem.prepare(device=_device(gpu=gpu))


def _filesystem(files: Files) -> Any:
    from pyarrow.fs import FSSpecHandler, PyFileSystem  # noqa: PLC0415

    return PyFileSystem(FSSpecHandler(files.fs))


def _failure(error: Exception) -> TrainingError:
    """What stopped the workers, in the words of the first that failed."""
    failures = list(getattr(error, "worker_failures", {}).values())
    cause = failures[0] if failures else getattr(error, "controller_failure", error)
    cause = getattr(cause, "_base_exc", cause)  # Ray Train's wrapper for what workers raise
    return TrainingError(
        f"the training workers failed more than {RESTARTS} times, at last with "
        f"{type(cause).__name__}: {str(cause).rstrip('.')}. "
        "Once the cause is mended, the same command resumes from the last checkpoint."
    )


def _work(config: dict[str, Any]) -> FittedVersion | BackstayError:
    """What each Ray Train worker runs.

    An error of Backstay's own comes back as a value: all workers meet it at the same step, and
    would again if Ray Train started them anew, as it does after any other.
    """
    import ray  # noqa: PLC0415
    from ray import train  # noqa: PLC0415

    workers, inbox = current_workers(), config["inbox"]
    states = None
    if found := train.get_checkpoint():
        with found.as_directory() as folder, (Path(folder) / STATE_FILE).open("rb") as file:
            states = _load(file)
    if inbox and workers.leads:
        inbox.say.remote(_begin(workers.size, states))
    reported = -math.inf

    def checkpoint(states: dict[str, FitState]) -> None:
        # Ray Train waits for the reports of all workers, so that one clock decides.
        nonlocal reported
        now = time.monotonic()
        if workers.hear(float(now - reported < REPORT_SECONDS)):
            return
        reported = now
        phase, state = next(reversed(states.items()))
        metrics = {"phase": phase, "step": state.step, **(state.curve[-1] if state.curve else {})}
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if workers.leads:
                with (Path(folder) / STATE_FILE).open("wb") as file:
                    _save(states, file)
                saved = train.Checkpoint.from_directory(folder)
            train.report(metrics, checkpoint=saved)

    problem: Problem
    problem, prepared = ray.get([config["problem"], config["prepared"]])
    try:
        return problem.solve(
            leads=workers.leads,
            workers=workers,
            prepared=prepared,
            device=_device(gpu=config["gpu"]),
            states=states,
            checkpoint=checkpoint,
            checkpoint_seconds=config["checkpoint_seconds"],
            watch=inbox and inbox.say.remote,
        )
    except BackstayError as error:
        return error


def _begin(size: int, states: dict[str, FitState] | None) -> str:
    who = "1 worker" if size == 1 else f"{size} workers"
    if not states:
        return f"{who}: starting"
    phase, state = next(reversed(states.items()))
    return f"{who}: resuming from the checkpoint after step {state.step} of the {phase}"


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
