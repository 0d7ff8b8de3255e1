import pytest
import torch

from backstay.compat.losses import multi_step, single_step


@pytest.fixture
def residual():
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def older_maps():
    """B_3, B_2 and B_1 of dimensions 4 → 3 → 6 → 2."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=generator) for shape in ((3, 4), (6, 3), (2, 6))]


def slow_mean_square(rows):
    entries = [value**2 for row in rows.tolist() for value in row]
    return sum(entries) / len(entries)


def test_single_step_is_the_mean_over_entries_and_dimensions(residual):
    assert single_step(residual).item() == pytest.approx(slow_mean_square(residual))


def slow_product(matrix, row):
    return [sum(entry * value for entry, value in zip(line, row, strict=True)) for line in matrix]


def test_multi_step_carries_the_residual_through_the_older_maps(residual, older_maps):
    # j = 3, 2, 1, 0: nothing, B_3, B_2 B_3, B_1 B_2 B_3, applied row by row and map by map.
    expected = 0.0
    for passed in range(len(older_maps) + 1):
        entries = []
        for row in residual.tolist():
            carried = row
            for matrix in older_maps[:passed]:
                carried = slow_product(matrix.tolist(), carried)
            entries += [value**2 for value in carried]
        expected += sum(entries) / len(entries) / (len(older_maps) + 1)
    assert multi_step(residual, older_maps).item() == pytest.approx(expected, rel=1e-5)


def test_without_older_maps_multi_step_is_single_step(residual):
    assert torch.equal(multi_step(residual, []), single_step(residual))


def test_rotations_on_the_way_change_nothing(residual):
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2)))[0]
    torch.testing.assert_close(
        multi_step(residual, [rotation, rotation.T, rotation]), single_step(residual)
    )


def test_the_order_of_rows_does_not_matter(residual, older_maps):
    torch.testing.assert_close(
        multi_step(residual.flip(0), older_maps), multi_step(residual, older_maps)
    )


def test_a_perfect_map_costs_nothing(older_maps):
    assert multi_step(torch.zeros(5, 4), older_maps).item() == 0


def test_the_gradient_is_that_of_the_formula(residual, older_maps):
    single = residual.double().requires_grad_()
    assert torch.autograd.gradcheck(single_step, single)
    older = [matrix.double() for matrix in older_maps]
    assert torch.autograd.gradcheck(lambda r: multi_step(r, older), single)
