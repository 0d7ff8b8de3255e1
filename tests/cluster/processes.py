"""Processes that tests start, look for and kill."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pids_of(folder: str | Path) -> list[int]:
    """Every process but this one whose Ray lives in a folder: they all carry it in their
    environment."""
    mark = f"RAY_TMPDIR={folder}\0".encode()
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(process.name)
            if pid != os.getpid() and mark in (process / "environ").read_bytes():
                found.append(pid)
    return found


def kill_all(folder: str | Path) -> None:
    """Kill every process whose Ray lives in a folder."""
    while pids := pids_of(folder):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


class Job:
    """A `backstay` command in a process of its own, with a Ray of its own in `folder`."""

    def __init__(self, *command: str, log: Path, folder: str) -> None:
        self.log, self.folder = log, folder
        given = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        path = {"PYTHONPATH": str(ROOT / "platform"), "RAY_TMPDIR": folder}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "backstay", *command],
                env=given | path | {"OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=output,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_error) -> None:
        """Kill the driver and what there is of its Ray, as when a machine goes down."""
        kill_all(self.folder)
        self.process.wait()

    def finish(self) -> None:
        """Wait for its end."""
        assert self.process.wait(timeout=300) == 0, self.log.read_text()

    def wait_until(self, condition):
        """What the condition gives once it gives anything."""
        for _ in range(3000):
            if found := condition():
                return found
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def workers(self, name: str) -> list[int]:
        """The processes below it that Ray calls so."""
        found = []
        for pid in pids_of(self.folder):
            with contextlib.suppress(OSError):
                if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found
