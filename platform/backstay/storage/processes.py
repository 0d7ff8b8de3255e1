"""The identity of a process: host, process id and start time."""

import os
import socket
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """One process of one host."""

    host: str
    pid: int
    started: float | None  # seconds from the host's boot, so that setting the clock changes nothing


def this_process() -> ProcessIdentity:
    """The identity of this process."""
    pid = os.getpid()
    return ProcessIdentity(host=socket.gethostname(), pid=pid, started=started(pid))


def is_running(process: ProcessIdentity) -> bool:
    """Whether `process` is another live process of this host; False if it is of another host."""
    return (
        process.host == socket.gethostname()
        and process.pid != os.getpid()
        and process.started is not None
        and process.started == started(process.pid)
    )


def is_dead(process: ProcessIdentity) -> bool:
    """Whether `process` is of this host and has ended; False where that can't be proved.

    True for this process itself, which may take over what it left behind.
    """
    return (
        process.host == socket.gethostname()
        and not is_running(process)
        and (process.started is not None or started(process.pid) is None)
    )


def started(pid: int) -> float | None:
    """When a process of this host started, in seconds from boot; None if it has ended."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(process.create_time() - psutil.boot_time(), 2)
    except psutil.Error:
        return None
