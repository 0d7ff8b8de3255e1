"""Ray for the tests: one private session for all of them, and a real cluster for jobs."""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.processes import ROOT, free_port, kill_all, pids_of

HERE = Path(__file__).parent

RAYS_OWN_WARNINGS = [
    # Ray Data's context warns about its own old settings whenever one is made.
    "ignore::DeprecationWarning:ray.data.context",
    # Ray's process handles are collected while the killed process is still being reaped.
    "ignore:subprocess .* is still running:ResourceWarning",
]


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("cluster")
            for line in RAYS_OWN_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(line))


@pytest.fixture(scope="session")
def ray_cluster(s3) -> Iterator[None]:
    """A private Ray of two CPUs, open for `ray_session`; its workers reach the S3 server."""
    from backstay.cluster.session import ray_session  # noqa: PLC0415 - job tests do without

    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        with ray_session(cpus=2):
            yield


@pytest.fixture
def say(capsys) -> Callable[[str], None]:
    """Prints a line now, even if the test succeeds, with the seconds since the test began."""
    began = time.monotonic()

    def line(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n    {time.monotonic() - began:5.1f} s  {text}")

    return line


@dataclass(frozen=True)
class JobCluster:
    """A running cluster that takes jobs."""

    address: str  # of the job server, http://…
    environment: dict[str, str]
    folder: Path  # of Ray's own files

    def submit(
        self, *entrypoint: str, options: tuple[str, ...] = (), timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Submit a job with the repository as working directory, and wait for its end."""
        command = [*_ray("job", "submit"), "--address", self.address, "--working-dir", "."]
        return subprocess.run(
            [*command, *options, "--", *entrypoint],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def info(self, job_id: str) -> dict[str, object]:
        """What the job server reports of a job: `status`, `driver_exit_code`, `message` …"""
        url = f"{self.address}/api/jobs/{job_id}"
        return httpx.get(url, headers=self.headers()).raise_for_status().json()

    def headers(self) -> dict[str, str]:
        """Those of a request with the cluster's token."""
        return {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}

    def job(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `ray job` command, such as `logs ID`."""
        return subprocess.run(
            [*_ray("job", arguments[0]), "--address", self.address, *arguments[1:]],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def pids(self) -> list[int]:
        """Every process of this cluster."""
        return pids_of(self.folder)


def _short_folder() -> tempfile.TemporaryDirectory[str]:
    # Not pytest's: Ray's sockets lie in it, and the path of a Unix socket has at most 107 bytes.
    return tempfile.TemporaryDirectory(prefix="bs-", ignore_cleanup_errors=True)


@pytest.fixture
def short_folder() -> Iterator[str]:
    """A value for RAY_TMPDIR; what a killed Ray leaves there goes with the test."""
    with _short_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def job_cluster() -> Iterator[JobCluster]:
    """A cluster started by `ray start --head`, with a job server, on the loopback alone."""
    with _short_folder() as folder:
        server, client = free_port(), free_port()
        given = {n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "PYTHONPATH"))}
        environment = {
            **given,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "RAY_TMPDIR": folder,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every process on the loopback
            # With statistics off, a cluster still reports that once; port 9 has no listener.
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",
        }
        cluster = JobCluster(f"http://127.0.0.1:{server}", environment, Path(folder))
        log = Path(folder, "start.log")
        with log.open("wb") as output:
            head = subprocess.Popen(
                [
                    *_ray("start", "--head", "--block", "--port=0", "--num-cpus=2", "--num-gpus=0"),
                    *("--node-ip-address=127.0.0.1", "--include-dashboard=true"),
                    *("--dashboard-host=127.0.0.1", f"--dashboard-port={server}"),
                    *(f"--ray-client-server-port={client}", "--dashboard-agent-listen-port=0"),
                ],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_for(cluster, head, log)
            yield cluster
        finally:
            kill_all(folder)
            head.wait()


def _ray(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", *arguments]


def _wait_for(cluster: JobCluster, head: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{cluster.address}/api/jobs/", headers=cluster.headers()).is_success:
                return
        if head.poll() is not None:
            break
        time.sleep(0.5)
    pytest.fail(f"the cluster did not start:\n{log.read_text()}")
