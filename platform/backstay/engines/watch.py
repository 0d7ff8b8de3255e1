"""Progress of a fit: into the log and TensorBoard events, and from workers to the driver."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backstay.training.progress import Progress, Watch

log = logging.getLogger("backstay.training")

RELAY_SECONDS = 1.0
"""How often the driver fetches the workers' progress."""


@contextmanager
def watching(folder: Path | None) -> Iterator[Watch]:
    """Log progress, and write it as TensorBoard events under `folder` where one is given."""
    with _events(folder) as write:

        def watch(phase: str, progress: Progress) -> None:
            level = logging.DEBUG if progress.score is None else logging.INFO
            log.log(level, "%s: %s", phase, progress)
            write(phase, progress)

        yield watch


@contextmanager
def _events(folder: Path | None) -> Iterator[Callable[[str, Progress], None]]:
    if folder is None:
        yield lambda _phase, _progress: None
        return
    # Loading takes half a second, so only users of --log-dir pay for it.
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped]  # noqa: PLC0415

    # Flush every second instead of every two minutes: users watch a running fit.
    with SummaryWriter(str(folder), flush_secs=1) as writer:

        def write(phase: str, progress: Progress) -> None:
            figures = {
                "loss": progress.loss,
                "alignment": progress.alignment,
                "triples_per_second": progress.rate,
                "score": progress.score,
            }
            for name, value in figures.items():
                if value is not None:
                    writer.add_scalar(f"{phase}/{name}", value, progress.step)

        yield write


Message = str | tuple[str, Progress]
"""A line for the log, or a phase and its progress."""


class Inbox:
    """An actor that stores the workers' messages until the driver takes them."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    def line(self, text: str) -> None:
        """Store a line for the log."""
        self._messages.append(text)

    def progress(self, phase: str, progress: Progress) -> None:
        """Store the progress of a phase."""
        self._messages.append((phase, progress))

    def take(self) -> list[Message]:
        """All messages since the last call."""
        messages, self._messages = self._messages, []
        return messages


@contextmanager
def relay(watch: Watch) -> Iterator[Any]:
    """An `Inbox` for workers, which a thread of this process empties while the block runs.

    Lines go to the log, and progress to `watch`. A lost message never fails the fit.
    """
    import ray  # noqa: PLC0415
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    here = ray.get_runtime_context().get_node_id()
    # On the driver's machine, so that it is lost only together with the driver.
    inbox = (
        ray.remote(Inbox)
        .options(
            num_cpus=0,
            max_restarts=-1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote()
    )

    def take() -> list[Message]:
        try:
            messages: list[Message] = ray.get(inbox.take.remote(), timeout=5)
        except ray.exceptions.RayError as error:
            log.debug("no progress from the workers for now: %s", error)
            return []
        return messages

    with emptied(take, watch):
        yield inbox


@contextmanager
def emptied(take: Callable[[], list[Message]], watch: Watch) -> Iterator[None]:
    """Pass on what `take` returns, every RELAY_SECONDS and once more at the end."""
    over = threading.Event()

    def pass_on() -> None:
        last = False
        while not last:
            last = over.wait(RELAY_SECONDS)
            for message in take():
                if isinstance(message, str):
                    log.info(message)
                else:
                    watch(*message)

    def run() -> None:
        try:
            pass_on()
        except Exception as error:  # noqa: BLE001 - such as a full disk: the fit goes on
            log.warning("progress is no longer shown; the fit goes on: %r", error)

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10)
