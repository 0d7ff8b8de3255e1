"""Fitting one version on Ray Train with workers, or in this process when the data is small."""

import logging
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

import torch

from backstay.engines.watch import relay
from backstay.errors import BackstayError, TrainingError
from backstay.evaluation.metrics.ranking import recall_score
from backstay.storage.files import Files
from backstay.training.fit import FitState
from backstay.training.prepared import Prepared, prepare
from backstay.training.progress import Watch
from backstay.training.request import FitRequest
from backstay.training.version import FittedVersion, VersionCallbacks, fit_version
from backstay.training.workers import current_workers

if TYPE_CHECKING:
    import ray
    from pyarrow.fs import PyFileSystem

log = logging.getLogger("backstay.fit")

STATE_FILE = "state.pt"
THREADS_PAY = 1_000_000
"""Use several threads only above this n_nodes × D."""

RESTARTS = 3
"""How often Ray Train replaces a lost worker before the fit fails."""

CHECKPOINT_SECONDS = 120.0
"""The most work that a crash may lose, besides an evaluation."""

REPORT_SECONDS = 2.0
"""How often Ray Train polls for reports; a worker that reports sooner has to wait."""

RESIZE_SECONDS = 60.0
"""How often an elastic fit checks for added or lost machines; a change restarts the workers."""


@dataclass(frozen=True, kw_only=True)
class FitRun:
    """Where a fit keeps its checkpoints, whether it uses GPUs, and who gets its progress."""

    files: Files
    folder: str  # of the checkpoints, in `files`
    gpu: bool = False  # one GPU per worker
    watch: Watch | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS


def fit_here(request: FitRequest, run: FitRun) -> FittedVersion:
    """Fit in this process, without Ray; resumes from the checkpoint in the run's folder."""
    files, path = run.files, f"{run.folder}/{STATE_FILE}"
    states = _load(BytesIO(files.read(path))) if files.exists(path) else None
    if states:
        log.info("%s, in %s", start_message(1, states), files.full(run.folder))

    def checkpoint(states: dict[str, FitState]) -> None:
        buffer = BytesIO()
        _save(states, buffer)
        files.write(path, buffer.getvalue())

    with _threads(request):
        return fit_version(
            request,
            score=recall_score(request.step),
            device=_device(gpu=run.gpu),
            states=states,
            callbacks=VersionCallbacks(
                checkpoint=checkpoint,
                checkpoint_seconds=run.checkpoint_seconds,
                watch=run.watch,
            ),
        )


def fit_on_ray(
    request: FitRequest, run: FitRun, *, workers: int | tuple[int, int]
) -> FittedVersion:
    """Fit on Ray Train with data-parallel workers; resumes from a checkpoint in the run's folder.

    A task prepares the graph and the teacher's vectors; all workers share them through the object
    store. Each worker takes its part of every batch, and gradients are summed. So the number of
    workers does not change the result; a pair of numbers lets Ray change it between the two.
    """
    # Loading Ray takes seconds; fitting in this process does not need it.
    import ray  # noqa: PLC0415
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415
    from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415

    from backstay.cluster.session import ray_session  # noqa: PLC0415
    from backstay.engines.gloo import GlooConfig  # noqa: PLC0415

    with ray_session(), relay(run.watch) if run.watch else nullcontext() as inbox:
        shared = ray.put(request)
        prepared = ray.remote(_prepare).options(num_gpus=int(run.gpu)).remote(shared, gpu=run.gpu)
        # A copy that this process owns survives the loss of a machine. Otherwise a task would have
        # to prepare it again, while the waiting workers hold every processor.
        try:
            prepared = ray.put(ray.get(prepared))
        except ray.exceptions.WorkerCrashedError as error:
            raise TrainingError(
                "the process that prepares the graph died repeatedly, most often because it ran "
                "out of memory. Give it a machine with more memory."
            ) from error
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "request": shared,
                "prepared": prepared,
                "gpu": run.gpu,
                "inbox": inbox,
                "checkpoint_seconds": run.checkpoint_seconds,
            },
            torch_config=TorchConfig(backend="nccl") if run.gpu else GlooConfig(),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=run.gpu,
                elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            ),
            run_config=RunConfig(
                name=run.folder,
                storage_path=run.files.root,
                # Ray's own file systems support fewer URLs, and read other credentials.
                storage_filesystem=None if run.files.is_local else arrow_filesystem(run.files),
                failure_config=FailureConfig(max_failures=RESTARTS),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        # Ray's handler would turn Ctrl-C into a successful exit, for the rest of the process.
        trainer._register_sigint_handler = lambda _controller: None  # noqa: SLF001
        try:
            fitted: FittedVersion | BackstayError = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise failure_of(error) from error
        if isinstance(fitted, BackstayError):
            raise fitted
        return fitted


def _prepare(request: FitRequest, *, gpu: bool) -> Prepared:
    return prepare(request, device=_device(gpu=gpu))


def arrow_filesystem(files: Files) -> "PyFileSystem":
    """The file system of `files` as Ray Train takes it."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem  # noqa: PLC0415

    return PyFileSystem(FSSpecHandler(files.fs))


def failure_of(error: Exception) -> TrainingError:
    """The error to raise when Ray Train gives up; it names the first worker's error."""
    failures = list(getattr(error, "worker_failures", {}).values())
    cause = failures[0] if failures else getattr(error, "controller_failure", error)
    cause = getattr(cause, "_base_exc", cause)  # Ray Train's wrapper for what workers raise
    return TrainingError(
        f"the training workers failed more than {RESTARTS} times, at last with "
        f"{type(cause).__name__}: {str(cause).rstrip('.')}. "
        "Once the cause is fixed, the same command resumes from the last checkpoint."
    )


class _WorkerConfig(TypedDict):
    """The input of each Ray Train worker; objects are references into Ray's object store."""

    request: "ray.ObjectRef[FitRequest]"
    prepared: "ray.ObjectRef[Prepared]"
    gpu: bool
    inbox: Any  # an actor handle of `Inbox`, or None
    checkpoint_seconds: float


def _work(config: _WorkerConfig) -> FittedVersion | BackstayError:
    """The function that each Ray Train worker runs.

    A BackstayError is returned, not raised: Ray Train restarts the workers after an exception, and
    the error would only occur again.
    """
    import ray  # noqa: PLC0415
    from ray import train  # noqa: PLC0415

    workers, inbox = current_workers(), config["inbox"]
    states = None
    if found := train.get_checkpoint():
        with found.as_directory() as folder, (Path(folder) / STATE_FILE).open("rb") as file:
            states = _load(file)
    if inbox and workers.leads:
        inbox.line.remote(start_message(workers.size, states))
    reported = -math.inf

    def checkpoint(states: dict[str, FitState]) -> None:
        # Ray Train waits for the reports of all workers, so worker 0 decides for all.
        nonlocal reported
        now = time.monotonic()
        if workers.broadcast(float(now - reported < REPORT_SECONDS)):
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

    request, prepared = ray.get(config["request"]), ray.get(config["prepared"])
    try:
        return fit_version(
            request,
            # Only the leading worker evaluates.
            score=recall_score(request.step) if workers.leads else None,
            prepared=prepared,
            device=_device(gpu=config["gpu"]),
            workers=workers,
            states=states,
            callbacks=VersionCallbacks(
                checkpoint=checkpoint,
                checkpoint_seconds=config["checkpoint_seconds"],
                watch=inbox and inbox.progress.remote,
            ),
        )
    except BackstayError as error:
        return error


def start_message(size: int, states: dict[str, FitState] | None) -> str:
    """The log line of workers that start: how many, and after which step they resume."""
    who = "1 worker" if size == 1 else f"{size} workers"
    if not states:
        return f"{who}: starting"
    phase, state = next(reversed(states.items()))
    return f"{who}: resuming from the checkpoint after step {state.step} of the {phase}"


def _save(states: dict[str, FitState], file: BinaryIO) -> None:
    torch.save({phase: vars(state) for phase, state in states.items()}, file)


def _load(file: BinaryIO) -> dict[str, FitState]:
    # weights_only: tensors and plain values; nothing in the file can run
    loaded = torch.load(file, weights_only=True, map_location="cpu")
    return {phase: FitState(**state) for phase, state in loaded.items()}


def _device(*, gpu: bool) -> str:
    if not gpu:
        return "cpu"
    if not torch.cuda.is_available():
        raise TrainingError(
            "--gpu: expected a GPU, torch found none on this machine; leave --gpu out."
        )
    return "cuda"


@contextmanager
def _threads(request: FitRequest) -> Iterator[None]:
    """Use one thread for small matrices, where a second one costs more than it saves.

    On a busy machine it costs a hundred times more, because threads wait for each other.
    """
    before = torch.get_num_threads()
    if (request.step.n_users + request.step.n_items) * request.plan.dim < THREADS_PAY:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
