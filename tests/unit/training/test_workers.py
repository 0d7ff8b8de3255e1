import numpy as np
import pytest
import torch

from backstay.training.workers import ALONE, Workers, current_workers
from tests.support.planted import pinsage, vectors
from tests.support.processes import start_python
from tests.support.training_worker import CASES, CUT_OFF, fit_case


def test_without_a_process_group_a_process_is_alone():
    assert current_workers() == ALONE == Workers(0, 1)
    assert ALONE.leads
    assert not Workers(1, 2).leads


def test_alone_gradients_figures_flags_and_values_stay_what_they_are():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    for flag in (False, True):
        figures, found = ALONE.add_gradients([parameter], torch.tensor([3.0, 4.0]), flag=flag)
        assert figures.tolist() == [3, 4]
        assert found is flag
    assert parameter.grad.tolist() == [1, 2]
    assert [ALONE.broadcast(value) for value in (0.5, None)] == [0.5, None]


class Exchange:
    """torch.distributed as a worker sees it whose colleague sends `other`, and leads."""

    def __init__(self, other, said=None):
        self.other, self.said, self.sent = torch.tensor(other), said, None

    def all_reduce(self, flat):
        self.sent = flat.tolist()
        flat += self.other

    def broadcast_object_list(self, values, *, src):
        assert src == 0
        values[0] = self.said


def test_gradients_figures_and_flags_are_added_in_one_exchange(monkeypatch):
    first, second = (torch.nn.Parameter(torch.zeros(*shape)) for shape in ((2, 2), (1,)))
    first.grad = torch.arange(4.0).view(2, 2)
    # The second has had no part of the batch.
    exchange = Exchange([1.0, 1, 1, 1, 7, 10, 20, 1])
    monkeypatch.setattr("backstay.training.workers.dist", exchange)
    figures, flag = Workers(1, 2).add_gradients(
        iter([first, second]), torch.tensor([0.5, 0.25]), flag=False
    )
    assert exchange.sent == [0, 1, 2, 3, 0, 0.5, 0.25, 0]
    assert first.grad.tolist() == [[1, 2], [3, 4]]
    assert second.grad.tolist() == [7]
    assert figures.tolist() == [10.5, 20.25]
    assert flag


@pytest.mark.parametrize("said", [0.25, None])
def test_the_value_of_worker_0_is_broadcast(monkeypatch, said):
    monkeypatch.setattr("backstay.training.workers.dist", Exchange([0.0], said))
    assert Workers(1, 2).broadcast(None) == said


# Processes


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one worker ends with, and the folder of its states after CUT_OFF steps."""
    folder = tmp_path_factory.mktemp("alone")

    def fit_and_save(name):
        def save(state):
            if state.step == CUT_OFF:
                torch.save(vars(state), folder / f"{name}.pt")

        return fit_case(name, checkpoint=save, checkpoint_seconds=0)

    return {name: fit_and_save(name) for name in CASES}, folder


@pytest.fixture(scope="module", params=[2, 3])
def together(request, alone, tmp_path_factory):
    """What each of several workers ends with, by case."""
    size, folder = request.param, tmp_path_factory.mktemp("together")
    for state in alone[1].glob("*.pt"):
        (folder / state.name).symlink_to(state)
    command = ("-m", "tests.support.training_worker", folder)
    workers = [start_python(*command, rank, size) for rank in range(size)]
    try:
        assert [worker.wait(timeout=240) for worker in workers] == [0] * size
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()

    def found(name):
        return [np.load(folder / f"{name}-{rank}.npz") for rank in range(size)]

    return found


@pytest.mark.parametrize("life", ["", " resumed"], ids=["whole-life", "after-one-worker"])
@pytest.mark.parametrize("name", CASES)
def test_several_processes_fit_what_one_does(alone, together, name, life):
    """From the start, and from where one worker has been stopped in the middle of an epoch."""
    expected, (leader, *others) = alone[0][name], together(name + life)
    for other in others:
        for array in ("vectors", "matrix"):
            np.testing.assert_array_equal(other[array], leader[array])
    np.testing.assert_allclose(leader["vectors"], expected["vectors"], atol=2e-4)
    np.testing.assert_allclose(leader["matrix"], expected["matrix"], atol=2e-5)
    for figure in ("loss", "alignment"):
        np.testing.assert_allclose(leader[figure], expected[figure], rtol=1e-5, atol=1e-6)


def test_such_a_fit_moves_much_further_than_its_noise(alone):
    for name, found in alone[0].items():
        if name != "post-hoc":
            assert np.abs(found["vectors"] - vectors(pinsage()).numpy()).max() > 0.02
    assert len({found["matrix"].tobytes() for found in alone[0].values()}) == len(CASES)
