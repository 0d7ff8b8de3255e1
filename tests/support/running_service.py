"""`run` of the service in a process of its own, and whatever that process starts."""

import signal
import subprocess
import time
from pathlib import Path

from backstay.registry.tokens import create
from tests.support import served
from tests.support.processes import environment, pids_of, start_python

SECONDS = 120  # how long anything here may take

RUN = """
import sys
from backstay.serving.server import run
run(sys.argv[1], port=0, cache=sys.argv[2], refresh_seconds=0.5, **eval(sys.argv[3]),
    on_ready=lambda url: print(url, flush=True))
"""


class Running:
    """The service's process and its children."""

    def __init__(
        self, root: Path, *, versions=2, folder: str = "", tokens: tuple[str, ...] = (), **options
    ) -> None:
        """Start it on a registry of so many versions, with access tokens of these names.

        `folder` is a RAY_TMPDIR; `options` are those of `run`.
        """
        variables = {"RAY_TMPDIR": folder} if folder else {}
        self.registry = served.build(root / "registry", versions=versions)
        self.tokens = [create(self.registry.files, name)[1] for name in tokens]
        self.root = root
        self.log = root / "log"
        with self.log.open("wb") as log:
            self.process = start_python(
                *("-c", RUN, root / "registry", root / "cache", repr(options)),
                env=environment(BACKSTAY_TEST_MARK=str(root), **variables),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_error) -> None:
        if self.process.poll() is None:
            self.terminate()
        self.process.stdout.close()

    def wait_until_ready(self):
        """Wait for its URL."""
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http"), self.log.read_text()
        return self

    def processes(self, name=""):
        """The pids of all its processes, which inherit its environment, or those of a name."""
        return pids_of(self.root, name=name, variable="BACKSTAY_TEST_MARK")

    def terminate(self, times=1):
        """Send SIGTERM so many times, wait for the end, and return its further output."""
        for _ in range(times):
            self.process.send_signal(signal.SIGTERM)
            time.sleep(0.5 * (times > 1))
        said, _ = self.process.communicate(timeout=SECONDS)
        return said


def eventually(what):
    """Wait until the function returns something true, and return that."""
    until = time.monotonic() + SECONDS
    while not (answer := what()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)
    return answer
