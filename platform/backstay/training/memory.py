"""Peak resident memory of a block of code, as the kernel counts it."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass
class PeakMemory:
    """The result of `peak_memory`, set when its block ends."""

    rss_mb: float = 0.0  # greatest resident memory of this process, MB of 10⁶ bytes


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Measure the greatest resident memory of this process while the block runs.

    Linux lets a process reset its peak. Elsewhere the figure covers the process's whole life.
    """
    peak = PeakMemory()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    try:
        yield peak
    finally:
        peak.rss_mb = _high_water_mark() / 1e6


def _high_water_mark() -> int:
    with suppress(OSError, StopIteration, ValueError):
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
