"""Where a fit's progress goes: the log, and TensorBoard's events."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backstay.training.progress import Progress, Watch

log = logging.getLogger("backstay.training")


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

    with SummaryWriter(str(folder)) as writer:

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
