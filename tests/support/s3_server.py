"""An S3 server in a process of its own, for tests: moto's, on a free port of this machine."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest


@dataclass(frozen=True)
class S3Server:
    """A running server. A process with `environment` reaches it by `s3://` URLs."""

    endpoint: str
    recording: Path  # the file of `record`

    @property
    def environment(self) -> dict[str, str]:
        """The variables that s3fs reads."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def storage_options(self) -> dict[str, object]:
        """For fsspec, where the variables are not set."""
        return {"endpoint_url": self.endpoint, "key": "test", "secret": "test"}

    def bucket(self) -> str:
        """The URL of a new, empty bucket."""
        name = f"test-{uuid4().hex}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        return f"s3://{name}"

    @contextlib.contextmanager
    def record(self) -> Iterator[list[str]]:
        """The requests that reach the server inside the block, filled in at its end: `GET /…`."""
        requests: list[str] = []
        self._recorder("reset-recording")
        self._recorder("start-recording")
        try:
            yield requests
        finally:
            self._recorder("stop-recording")
        for line in self.recording.read_text().splitlines():
            entry = json.loads(line)
            requests.append(f"{entry['method']} {urlsplit(entry['url']).path}")

    def _recorder(self, verb: str) -> None:
        url = f"{self.endpoint}/moto-api/recorder/{verb}"
        request = urllib.request.Request(url, method="POST")
        urllib.request.urlopen(request, timeout=30).close()


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[S3Server]:
    """A server for the whole session; it ends with it."""
    recording = tmp_path_factory.mktemp("s3") / "requests.jsonl"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={
            **os.environ,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "MOTO_RECORDER_FILEPATH": str(recording),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = S3Server(f"http://127.0.0.1:{port}", recording)
    try:
        _wait_for(server, process)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_for(server: S3Server, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        assert process.poll() is None, "the S3 server ended; is moto[server] installed?"
        try:
            urllib.request.urlopen(f"{server.endpoint}/moto-api/", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the S3 server does not answer")
