"""Where and when a benchmark ran: every benchmark prints it."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict


class Machine(TypedDict):
    """The machine of a run."""

    date: str
    system: str
    processor: str
    logical_cores: int | None
    usable_cores: int | None
    memory_gb: float
    load: float
    versions: dict[str, str]


def machine(*packages: str) -> Machine:
    """Date, processor, cores, memory, load, and the versions of Python and some packages."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "system": platform.platform(),
        "processor": _processor(),
        "logical_cores": os.cpu_count(),
        "usable_cores": cores,  # fewer where the process is pinned
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in packages},
    }


def header(found: Machine) -> str:
    """Format the machine as three lines of text."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{found['date']}, {found['system']}\n"
        f"{found['processor']}, {found['usable_cores']} of {found['logical_cores']} logical cores, "
        f"{found['memory_gb']} GB, load before the run {found['load']}\n{versions}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
