"""Updates fitted by Ray Train: workers and drivers that are killed, and nothing lost by it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from backstay.datasets.marketplace import generate
from backstay.datasets.marketplace_config import MarketplaceConfig
from backstay.registry.store import Registry

ROOT = Path(__file__).parents[2]
EPOCHS = 60


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("market") / "dataset"
    generate(MarketplaceConfig(interactions=6_000), out)
    return out


class Job:
    """A `backstay update` in a process of its own."""

    def __init__(self, registry: Path, dataset: Path, log: Path, *options: str) -> None:
        self.log = log
        environment = os.environ | {"PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "backstay", "update", "--registry", str(registry)]
        command += ["--space", "market", "--dataset", str(dataset), "--until", "0.5"]
        command += ["--dim", "64", "--epochs", str(EPOCHS), *options]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def wait(self) -> None:
        assert self.process.wait(timeout=300) == 0, self.log.read_text()

    def wait_until(self, condition):
        for _ in range(1500):
            if found := condition():
                return found
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def kill(self) -> None:
        """Kill the driver, and then what is left of its Ray, as when a machine goes down."""
        below = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> dict[int, str]:
    """Every process below `pid`: its command line by its number."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            number = int(entry.name)
            parents[number] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            lines[number] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return {number: lines[number] for number in below - {pid}}


def checkpoints(registry: Path) -> set[str]:
    return {path.parent.name for path in registry.glob("market/runs/*/checkpoint_*/state.pt")}


def test_a_killed_worker_and_a_killed_driver_cost_nothing_but_time(dataset, tmp_path):
    registry = tmp_path / "registry"
    job = Job(registry, dataset, tmp_path / "first.log", "--workers", "1")
    try:
        before = job.wait_until(lambda: checkpoints(registry))
        (worker,) = [
            pid for pid, line in descendants(job.process.pid).items() if "RayTrainWorker" in line
        ]
        os.kill(worker, signal.SIGKILL)
        job.wait_until(lambda: checkpoints(registry) - before)
    finally:
        job.kill()
    space = Registry(registry).space("market")
    assert space.versions() == []

    undisturbed = tmp_path / "undisturbed"
    jobs = [
        Job(registry, dataset, tmp_path / "second.log", "--workers", "1"),
        Job(undisturbed, dataset, tmp_path / "third.log", "--workers", "0"),
    ]
    for job in jobs:
        job.wait()
    assert space.versions() == [0]
    assert space.verify(0) == []
    expected = Registry(undisturbed).space("market").model(0)
    for name, value in space.model(0).weights.items():
        np.testing.assert_allclose(value, expected.weights[name], rtol=1e-3, atol=1e-4)
