"""Updates fitted by Ray Train resume after workers and drivers are killed."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from backstay.registry.store import Registry
from backstay.registry.verify import verify
from tests.support.builders import marketplace
from tests.support.processes import Job

EPOCHS = 80  # of a step each


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return marketplace(tmp_path_factory.mktemp("market"), interactions=6_000)


def update(registry: Path, dataset: Path, log: Path, folder: str, *options: str) -> Job:
    return Job(
        *("update", "--registry", str(registry), "--space", "market"),
        *("--dataset", str(dataset), "--until", "0.5", "--dim", "64"),
        *("--epochs", str(EPOCHS), "--batch-size", "8192", "--evaluate-every", "1"),
        *("--profile", "paper", "--sampling", "neighbours", *options),
        log=log,
        folder=folder,
    )


def checkpoints(registry: Path) -> set[str]:
    """The names of checkpoints reported to Ray Train; all others are lost with their worker."""
    (*found,) = registry.glob("market/runs/*/checkpoint_manager_snapshot.json")
    return {
        name for path in found for name in re.findall(r"checkpoint_2[\d._-]+", path.read_text())
    }


def kept_steps(registry: Path) -> set[int]:
    """The steps of the checkpoints."""
    names = checkpoints(registry)
    paths = [path for name in names for path in registry.glob(f"market/runs/*/{name}/state.pt")]
    return {torch.load(path, weights_only=True)["model"]["step"] for path in paths}


def resumed(log: Path) -> list[int]:
    """The steps from which 2 workers resumed."""
    found = re.findall(r"2 workers: resuming .* after step (\d+) of the model", log.read_text())
    return [int(step) for step in found]


@pytest.mark.faults
def test_killed_workers_and_a_killed_driver_cost_nothing_but_time(dataset, tmp_path, short_folder):
    registry, undisturbed = tmp_path / "registry", tmp_path / "undisturbed"
    first, second, third = (tmp_path / f"{name}.log" for name in ("first", "second", "third"))
    workers = ("--workers", "2", "--checkpoint-seconds", "1", "--log-dir", str(tmp_path / "logs"))
    with update(registry, dataset, first, short_folder, *workers) as job:
        before = job.wait_until(lambda: checkpoints(registry))
        job.wait_until(lambda: "model: epoch" in first.read_text())  # printed while it runs
        found = job.workers("RayTrainWorker")
        assert len(found) == 2
        os.kill(found[0], signal.SIGKILL)
        (after,) = job.wait_until(lambda: resumed(first))
        assert after > 0
        job.wait_until(lambda: checkpoints(registry) - before)
    space = Registry(registry).space("market")
    assert space.versions() == []
    kept = kept_steps(registry)

    with (
        update(registry, dataset, second, short_folder, *workers) as again,
        update(undisturbed, dataset, third, short_folder, "--workers", "0") as alone,
    ):
        again.finish()
        alone.finish()
    (place,) = resumed(second)
    assert place in kept
    assert place >= after
    printed = re.search(r"model: epoch (\d+) of", second.read_text())
    assert int(printed[1]) > place  # an epoch of so little data is one step
    assert space.versions() == [0]
    assert verify(space, 0) == []
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
