"""The processes of the soak: an S3 server, the service, and the small disk under its cache."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from backstay.errors import BackstayError

REPLICA, WATCH = "ServeReplica:backstay:lookup", "ServeReplica:backstay:watch"
CONTROLLER = "ServeController"

Processes = dict[int, psutil.Process]
"""By their ids."""


class Memory(NamedTuple):
    """MB, shared memory in proportion (PSS)."""

    own: float  # without files that are mapped, which other programs share, or the system drops
    all: float


_MARK = "BACKSTAY_SOAK"  # the variable that all processes of the service inherit
_START_SECONDS = 180


@contextmanager
def s3_server() -> Iterator[tuple[str, psutil.Process]]:
    """Start moto's S3 server; yields the URL of an empty bucket, and the server's process.

    This process and its children reach it by the usual variables.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    os.environ.update(
        AWS_ENDPOINT_URL=endpoint, AWS_ACCESS_KEY_ID="soak", AWS_SECRET_ACCESS_KEY="soak",  # noqa: S106 (moto takes any)
        AWS_DEFAULT_REGION="us-east-1",
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        request = urllib.request.Request(f"{endpoint}/soak", method="PUT")  # noqa: S310
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                urllib.request.urlopen(request, timeout=5).close()  # noqa: S310
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > end:
                    raise BackstayError(
                        "the S3 server does not start: install moto[server]"
                    ) from None
                time.sleep(0.1)
        yield "s3://soak", psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


@contextmanager
def small_disk(folder: Path, *, size: int) -> Iterator[bool]:
    """Mount a disk of `size` bytes at a new folder; yields whether this user may do that."""
    folder.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],  # noqa: S607
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)  # noqa: S607


def fill(folder: Path) -> Path:
    """Fill the disk of a folder; the file that does it."""
    filler = folder / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    return filler


class Service:
    """`backstay serve` in a process of its own, and all processes that it starts."""

    def __init__(self, registry: str, cache: Path, *, replicas: int, log: Path) -> None:
        """Start it; BackstayError if it does not serve within three minutes."""
        self.replicas = replicas
        self._mark = str(log)
        self._folder = tempfile.mkdtemp(prefix="soak-")  # a short path: of Ray's sockets
        variables = {
            _MARK: self._mark,
            "RAY_TMPDIR": self._folder,
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
        }
        command = ["-m", "backstay", "serve", "--json", "--registry", registry, "--port", "0"]
        options = ["--replicas", str(replicas), "--cache", str(cache), "--refresh-seconds", "1"]
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, *command, *options],
                env={n: v for n, v in os.environ.items() if n != "RAY_ADDRESS"} | variables,
                stdout=subprocess.PIPE,
                stderr=file,
            )
        assert self._process.stdout  # noqa: S101
        said = ""
        while not said.rstrip().endswith("}"):  # a JSON document, once it serves
            line = self._process.stdout.readline().decode()
            if not line:
                self.stop()
                raise BackstayError(f"the service does not start:\n{log.read_text()[-2000:]}")
            said += line
        self.url = str(json.loads(said)["url"])

    def processes(self, name: str) -> Processes:
        """Its processes of a name, by their ids. The name is a part of the command line."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark and name in _command(process):
                    found[process.pid] = process
        return found

    def proxies(self) -> Processes:
        """HAProxy, or Ray Serve's own proxy where that is used."""
        found = self.processes("")
        named = {pid: p for pid, p in found.items() if _named(p) == "haproxy"}
        return named or {pid: p for pid, p in found.items() if "ProxyActor" in _command(p)}

    def memory(self) -> Memory:
        """Memory of all replicas and of the process that watches the registry."""
        total: Counter[str] = Counter()
        for name in (REPLICA, WATCH):
            for pid in self.processes(name):
                with contextlib.suppress(OSError):  # it has ended
                    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                        field, *values = line.split()
                        total[field] += int(values[0]) if values[-1] == "kB" else 0
        return Memory(total["Pss_Anon:"] / 1000, total["Pss:"] / 1000)

    def stop(self) -> None:
        """Stop it, and whatever is left of it."""
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=60)
        while left := self.processes(""):
            for process in left.values():
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(0.1)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def kill(processes: Processes) -> None:
    """Kill them, as when the system runs out of memory."""
    for process in processes.values():
        with contextlib.suppress(psutil.Error):
            process.kill()


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _named(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""
