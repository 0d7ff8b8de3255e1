"""Updates fitted by Ray Train: workers and drivers that are killed, and nothing lost by it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from backstay.datasets.marketplace import generate
from backstay.datasets.marketplace_config import MarketplaceConfig
from backstay.registry.store import Registry

ROOT = Path(__file__).parents[2]
EPOCHS = 80  # of a step each


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
        command += ["--dim", "64", "--epochs", str(EPOCHS), "--batch-size", "8192"]
        command += ["--evaluate-every", "1", "--profile", "paper"]
        command += ["--sampling", "neighbours", *options]
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
    """The names of those that Ray Train has heard of; what it hasn't is lost with its worker."""
    (*found,) = registry.glob("market/runs/*/checkpoint_manager_snapshot.json")
    return {
        name for path in found for name in re.findall(r"checkpoint_2[\d._-]+", path.read_text())
    }


def kept_steps(registry: Path) -> set[int]:
    """The step that each checkpoint there was made after."""
    names = checkpoints(registry)
    paths = [path for name in names for path in registry.glob(f"market/runs/*/{name}/state.pt")]
    return {torch.load(path, weights_only=True)["model"]["step"] for path in paths}


def resumed(log: Path) -> list[int]:
    """The steps from which 2 workers went on."""
    found = re.findall(r"2 workers: resuming .* after step (\d+) of the model", log.read_text())
    return [int(step) for step in found]


def test_killed_workers_and_a_killed_driver_cost_nothing_but_time(dataset, tmp_path):
    registry, undisturbed = tmp_path / "registry", tmp_path / "undisturbed"
    first, second, third = (tmp_path / f"{name}.log" for name in ("first", "second", "third"))
    workers = ("--workers", "2", "--checkpoint-seconds", "1", "--log-dir", str(tmp_path / "told"))
    job = Job(registry, dataset, first, *workers)
    try:
        before = job.wait_until(lambda: checkpoints(registry))
        job.wait_until(lambda: "model: epoch" in first.read_text())  # told while it runs
        found = [
            pid for pid, line in descendants(job.process.pid).items() if "RayTrainWorker" in line
        ]
        assert len(found) == 2
        os.kill(found[0], signal.SIGKILL)
        (after,) = job.wait_until(lambda: resumed(first))
        assert after > 0
        job.wait_until(lambda: checkpoints(registry) - before)
    finally:
        job.kill()
    space = Registry(registry).space("market")
    assert space.versions() == []
    kept = kept_steps(registry)

    jobs = [
        Job(registry, dataset, second, *workers),
        Job(undisturbed, dataset, third, "--workers", "0"),
    ]
    for job in jobs:
        job.wait()
    (again,) = resumed(second)
    assert again in kept
    assert again >= after
    told = re.search(r"model: epoch (\d+) of", second.read_text())
    assert int(told[1]) > again  # an epoch of so little data is one step
    assert space.versions() == [0]
    assert space.verify(0) == []
    assert not list(registry.glob("market/runs/*"))
    expected = Registry(undisturbed).space("market")
    # Two workers add their gradients in another order than one process does. Undisturbed ones too
    # end up to 9e-4 from it in weights, and 2e-5 in the loss.
    for name, value in space.model(0).weights.items():
        np.testing.assert_allclose(value, expected.model(0).weights[name], rtol=1e-3, atol=2e-3)
    ours, theirs = (
        [point["loss"] for point in one.fit_report(0)["phases"]["model"]["curve"]]
        for one in (space, expected)
    )
    assert len(ours) == EPOCHS
    np.testing.assert_allclose(ours, theirs, rtol=2e-4)
