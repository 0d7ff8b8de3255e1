"""Old dimensions in a new basis, new ones beside them, and the way back."""

import numpy as np
import pytest
import torch

from backstay.training import extension as module
from backstay.training.extension import RATE, STRETCH, Extension, inverse_map
from tests.support.planted import random

OLDER, NEW = 5, 3


def extension_of(change):
    extension = Extension(OLDER, NEW)
    with torch.no_grad():
        extension.change.copy_(change)
    return extension


def norm(matrix):
    return np.linalg.norm(matrix.astype(np.float64), 2)


def back(extension):
    return inverse_map(extension.basis.detach().numpy(), OLDER)


@pytest.fixture
def extension():
    return extension_of(2 * random(OLDER + NEW, OLDER + NEW))


def test_a_vector_is_the_old_one_and_the_new_dimensions_in_another_basis(extension):
    older, new = random(7, OLDER, seed=1), random(7, NEW, seed=2)
    basis = extension.basis.tolist()
    expected = [
        [sum(w * x for w, x in zip(line, [*old, *own], strict=True)) for line in basis]
        for old, own in zip(older.tolist(), new.tolist(), strict=True)
    ]
    torch.testing.assert_close(extension(older, new), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_it_begins_with_the_old_vectors_as_they_are():
    older, new = random(7, OLDER, seed=1), random(7, NEW, seed=2)
    torch.testing.assert_close(Extension(OLDER, NEW)(older, new), torch.cat([older, new], dim=1))


def test_the_basis_moves_at_a_rate_of_its_own():
    change = random(OLDER + NEW, OLDER + NEW)
    moved = extension_of(change).basis - Extension(OLDER, NEW).basis
    torch.testing.assert_close(moved, RATE * change)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_whole_tables_come_out_the_same_however_many_rows_are_held_at_once(
    extension, rows, monkeypatch
):
    monkeypatch.setattr(module, "BLOCK_ROWS", rows)
    older, new = random(10, OLDER, seed=1), random(10, NEW, seed=2)
    found = extension.whole(older, new)
    assert not found.requires_grad
    torch.testing.assert_close(found, extension(older, new).detach())


def test_an_extension_is_inverted_exactly(extension):
    older, new = random(50, OLDER, seed=1), random(50, NEW, seed=2)
    matrix = back(extension)
    assert matrix.shape == (OLDER, OLDER + NEW)
    found = extension(older, new).detach().numpy() @ matrix.T
    np.testing.assert_allclose(found, older.numpy(), atol=1e-5)


def test_extensions_are_inverted_one_after_another():
    z, maps = random(50, OLDER, seed=1), []
    first = z.numpy()
    for seed in (2, 3, 4):
        extension = Extension(z.shape[1], 2)
        with torch.no_grad():
            extension.change.copy_(random(*extension.change.shape, seed=seed))
        z = extension(z, random(50, 2, seed=10 + seed)).detach()
        maps.append(inverse_map(extension.basis.detach().numpy(), z.shape[1] - 2))
    found = z.numpy()
    for matrix in reversed(maps):
        found = found @ matrix.T
    np.testing.assert_allclose(found, first, atol=1e-4)


@pytest.mark.parametrize("rank", [1, OLDER, OLDER + NEW - 1])
def test_a_limited_basis_stretches_no_way_back_too_far(rank):
    """W of any rank, down to next to nothing: its least singular values are raised."""
    left, right = random(OLDER + NEW, rank, seed=3), random(rank, OLDER + NEW, seed=4)
    extension = extension_of((left @ right - torch.eye(OLDER + NEW)) / RATE)
    extension.limit_stretch()
    values = torch.linalg.svdvals(extension.basis.detach())
    assert values.min().item() == pytest.approx(1 / STRETCH, rel=1e-4)
    assert norm(back(extension)) <= STRETCH * (1 + 1e-4)
    older, new = random(20, OLDER, seed=5), random(20, NEW, seed=6)
    found = extension(older, new).detach().numpy() @ back(extension).T
    np.testing.assert_allclose(found, older.numpy(), atol=1e-4)


def test_settling_keeps_the_singular_values_that_are_large_enough():
    left = torch.linalg.qr(random(OLDER + NEW, OLDER + NEW, seed=3))[0]
    right = torch.linalg.qr(random(OLDER + NEW, OLDER + NEW, seed=4))[0]
    values = torch.tensor([9.0, 4, 2, 1, 0.5, 0.2, 0.05, 0.001])
    extension = extension_of((left * values @ right - torch.eye(OLDER + NEW)) / RATE)
    extension.limit_stretch()
    expected = left * values.clamp(min=1 / STRETCH) @ right
    torch.testing.assert_close(extension.basis.detach(), expected, atol=1e-5, rtol=1e-5)


def test_a_basis_that_needs_no_settling_stays_as_it_is():
    before = extension_of(0.3 * random(OLDER + NEW, OLDER + NEW))
    after = extension_of(before.change.detach())
    after.limit_stretch()
    torch.testing.assert_close(after.basis, before.basis, atol=1e-6, rtol=1e-6)
    assert norm(back(after)) < STRETCH


def test_gradients_reach_the_basis_and_the_new_dimensions(extension):
    new = random(7, NEW, seed=2).requires_grad_()
    extension(random(7, OLDER, seed=1), new).square().sum().backward()
    assert extension.change.grad.count_nonzero() == (OLDER + NEW) ** 2
    assert new.grad.count_nonzero()
