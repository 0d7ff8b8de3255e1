import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.training.two_workers import fit_joint

from backstay.training.workers import ALONE, Workers, current_workers, global_mean_share

ROOT = Path(__file__).parents[3]


def test_without_a_process_group_a_process_is_alone():
    assert current_workers() == ALONE == Workers(0, 1)
    assert ALONE.leads
    assert not Workers(1, 2).leads


def test_alone_gradients_stay_what_they_are():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    ALONE.add_gradients([parameter])
    assert parameter.grad.tolist() == [1, 2]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_of_unequal_shards_add_up_to_the_mean(size):
    values = torch.arange(7.0)
    shards = [values[rank::size] for rank in range(size)]
    shares = [global_mean_share(shard.mean(), len(shard), len(values)) for shard in shards]
    assert sum(shares).item() == pytest.approx(values.mean().item())


def test_two_processes_fit_what_one_does(tmp_path):
    command = [sys.executable, "-m", "tests.unit.training.two_workers", str(tmp_path)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    workers = [
        subprocess.Popen([*command, str(rank), "2"], env=os.environ | {"PYTHONPATH": path})
        for rank in range(2)
    ]
    try:
        vectors, matrix = fit_joint()
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    first, second = (np.load(tmp_path / f"worker-{rank}.npz") for rank in range(2))
    np.testing.assert_array_equal(first["vectors"], second["vectors"])
    np.testing.assert_array_equal(first["matrix"], second["matrix"])
    np.testing.assert_allclose(first["vectors"], vectors, atol=2e-4)
    np.testing.assert_allclose(first["matrix"], matrix, atol=2e-5)
