"""Processes that tests start, look for and kill."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = ROOT / "platform"


def environment(**changes: str) -> dict[str, str]:
    """Variables for a process that imports this checkout and joins no Ray that already runs."""
    given = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return given | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, PLATFORM)))} | changes


def start_python(*arguments: object, **options) -> subprocess.Popen:
    """Start Python; `options` are those of `Popen`, and replace its environment."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], **({"env": environment()} | options)
    )


def run_python(*arguments: object, check=False, **options) -> subprocess.CompletedProcess[str]:
    """Run Python to its end and keep what it prints; `check` asserts that it succeeds."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=False,
        **({"env": environment(), "capture_output": True, "text": True} | options),
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def free_port() -> int:
    """A port of the loopback that nothing uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def pids_of(folder: str | Path, *, name: str = "", variable: str = "RAY_TMPDIR") -> list[int]:
    """Every other process whose environment has this folder, and whose command has this name."""
    mark = f"{variable}={folder}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes()
            if mark in variables and name.encode() in command and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


def kill_all(folder: str | Path) -> None:
    """Kill every process with this RAY_TMPDIR."""
    while pids := pids_of(folder):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


class Job:
    """A `backstay` command in its own process; its Ray writes to `folder`."""

    def __init__(self, *command: str, log: Path, folder: str) -> None:
        self.log, self.folder = log, folder
        with log.open("ab") as output:
            self.process = start_python(
                *("-m", "backstay", *command),
                env=environment(RAY_TMPDIR=folder),
                stdout=output,
                stderr=output,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_error) -> None:
        """Kill the driver and its Ray, as when a machine goes down."""
        kill_all(self.folder)
        self.process.wait()

    def finish(self) -> None:
        """Wait for its success."""
        assert self.process.wait(timeout=300) == 0, self.log.read_text()

    def wait_until(self, condition):
        """Wait until the condition is true, and return its value."""
        for _ in range(3000):
            if found := condition():
                return found
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def workers(self, name: str) -> list[int]:
        """The pids of its Ray processes with this name."""
        return pids_of(self.folder, name=name)
