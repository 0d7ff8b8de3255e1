"""Where a fit's progress goes: the log, and TensorBoard's events; from workers through a relay."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backstay.training.progress import Progress, Watch

log = logging.getLogger("backstay.training")

RELAY_SECONDS = 1.0
"""How often the driver asks for what workers have told."""


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
    # Half a second to load, for those who ask for it.
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped]  # noqa: PLC0415

    # Written out every second, not every two minutes: people look at a fit while it runs.
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


class Inbox:
    """An actor that keeps what workers say until the driver asks."""

    def __init__(self) -> None:
        self._said: list[tuple[Any, ...]] = []

    def say(self, *words: Any) -> None:
        """Take a line for the log, or a phase and its progress."""
        self._said.append(words)

    def take(self) -> list[tuple[Any, ...]]:
        """Everything said since the last time."""
        said, self._said = self._said, []
        return said


@contextmanager
def relay(watch: Watch) -> Iterator[Any]:
    """An `Inbox` for workers; while the block runs, a thread of this process empties it.

    Lines go to the log, and progress to `watch`. Losing some of it never fails the fit.
    """
    import ray  # noqa: PLC0415
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    here = ray.get_runtime_context().get_node_id()
    # On the driver's machine, so that it goes no sooner than who listens to it.
    inbox = (
        ray.remote(Inbox)
        .options(
            num_cpus=0,
            max_restarts=-1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote()
    )

    def take() -> list[tuple[Any, ...]]:
        try:
            said: list[tuple[Any, ...]] = ray.get(inbox.take.remote(), timeout=5)
        except ray.exceptions.RayError as error:
            log.debug("no progress is heard for now: %s", error)
            return []
        return said

    with emptied(take, watch):
        yield inbox


@contextmanager
def emptied(take: Callable[[], list[tuple[Any, ...]]], watch: Watch) -> Iterator[None]:
    """Pass on what `take` returns, every RELAY_SECONDS and once more at the end."""
    over = threading.Event()

    def pass_on() -> None:
        last = False
        while not last:
            last = over.wait(RELAY_SECONDS)
            for words in take():
                if len(words) == 1:
                    log.info(*words)
                else:
                    watch(*words)

    def run() -> None:
        try:
            pass_on()
        except Exception as error:  # noqa: BLE001 - a full disk, say: the fit doesn't depend on it
            log.warning("progress is no longer told, while the fit goes on: %r", error)

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10)
