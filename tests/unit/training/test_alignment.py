import pytest
import torch

from backstay.compat.losses import multi_step, single_step
from backstay.training import alignment as module
from backstay.training.alignment import Alignment, alignment_residual, fresh_map
from tests.support.planted import NODES, alignment_of, random


@pytest.mark.parametrize("loss", ["single", "multi"])
def test_the_loss_is_that_of_the_rows_it_is_given(loss):
    backward, z, teacher = fresh_map(8, 6, seed=0), random(3, 8), random(3, 6, seed=7)
    residual = teacher - z @ backward.weight.detach().T
    older = [random(5, 6, seed=8)]
    expected = single_step(residual) if loss == "single" else multi_step(residual, older)
    torch.testing.assert_close(
        alignment_of(loss=loss).loss(backward, z, teacher).detach(), expected
    )


@pytest.mark.parametrize("rows", [1, 7, NODES, 10_000])
def test_the_error_is_over_all_nodes_however_many_are_held_at_once(rows, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", rows)
    backward, z, teacher = fresh_map(8, 6, seed=0), random(NODES, 8), random(NODES, 6, seed=7)
    residual = teacher - z @ backward.weight.detach().T
    assert alignment_residual(backward, z, teacher) == pytest.approx(
        single_step(residual).item(), rel=1e-5
    )


def test_a_seed_decides_a_fresh_map_and_the_global_generator_neither_way():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fresh_map(8, 6, seed=3).weight
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(fresh_map(8, 6, seed=3).weight, first)
    assert not torch.equal(fresh_map(8, 6, seed=4).weight, first)
    assert first.shape == (6, 8)


def test_older_maps_are_never_trained():
    older = random(5, 6, seed=8).requires_grad_()
    alignment, backward = Alignment(older_maps=[older]), fresh_map(8, 6, seed=0)
    alignment.loss(backward, random(4, 8), random(4, 6)).backward()
    assert older.grad is None
    assert backward.weight.grad.count_nonzero()
    assert [name for name, _ in backward.named_parameters()] == ["weight"]
