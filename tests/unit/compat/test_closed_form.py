from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.compat.closed_form import (
    orthogonal_low_rank,
    procrustes,
    ridge,
    similarity,
)
from backstay.compat.maps import AffineMap, chain_affine
from backstay.compat.moments import Moments, moments_of
from backstay.errors import InputError, MapMismatchError, UsageError


def vectors(rng, rows, dim, *, shift=0.0):
    return (rng.standard_normal((rows, dim)) + shift).astype(np.float32)


def rotation(rng, dim):
    return np.linalg.qr(rng.standard_normal((dim, dim)))[0]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def pair(rng):
    """Newer vectors (60, 5) and older ones (60, 3), related with noise and an offset."""
    x = vectors(rng, 60, 5, shift=2.0)
    y = x @ rng.standard_normal((5, 3)) + rng.standard_normal((60, 3)) + [3, -1, 0.5]
    return x, y.astype(np.float32)


def same(one, other, **tolerance):
    for name, value in vars(one).items():
        np.testing.assert_allclose(value, getattr(other, name), **tolerance)


# Affine maps.


def test_an_affine_map_is_a_dot_product_and_a_sum_per_row_and_dimension(rng):
    map_ = AffineMap(vectors(rng, 3, 5), vectors(rng, 1, 3)[0])
    x = vectors(rng, 4, 5)
    found = map_.apply(x)
    assert found.dtype == np.float32
    for row in range(4):
        for to in range(3):
            total = sum(float(map_.matrix[to, k]) * float(x[row, k]) for k in range(5))
            assert found[row, to] == pytest.approx(total + map_.offset[to], rel=1e-5)


def test_one_map_after_another_has_a_known_answer():
    newer = AffineMap(np.array([[2.0]], np.float32), np.array([1.0], np.float32))  # 2x + 1
    older = AffineMap(np.array([[10.0]], np.float32), np.array([5.0], np.float32))  # 10x + 5
    both = chain_affine([older, newer])
    assert both.matrix.tolist() == [[20.0]]  # 10(2x + 1) + 5
    assert both.offset.tolist() == [15.0]


@given(st.lists(st.integers(1, 6), min_size=3, max_size=5), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_a_chain_does_what_its_maps_do_one_by_one(dims, seed):
    rng = np.random.default_rng(seed)
    maps = [
        AffineMap(vectors(rng, to, from_), vectors(rng, 1, to)[0]) for to, from_ in pairwise(dims)
    ]
    x = stepwise = vectors(rng, 4, dims[-1])
    for map_ in reversed(maps):
        stepwise = map_.apply(stepwise)
    np.testing.assert_allclose(chain_affine(maps).apply(x), stepwise, rtol=1e-3, atol=1e-3)
    cut = chain_affine([chain_affine(maps[:-1]), maps[-1]])
    np.testing.assert_allclose(cut.apply(x), stepwise, rtol=1e-3, atol=1e-3)


def test_an_affine_chain_is_rounded_once():
    a = 1 + 2.0**-12  # a² takes one bit more than a float32 has
    parts = [[[a, 1]], [[a, 0], [0, 1 + 2.0**-11]], [[1], [-1]]]
    maps = [AffineMap.linear(np.array(matrix, np.float32)) for matrix in parts]
    assert chain_affine(maps).matrix.tolist() == [[2.0**-24]]


@pytest.mark.parametrize(
    ("matrix", "offset"),
    [
        (np.zeros((2, 3)), np.zeros(3)),
        (np.zeros(3), np.zeros(3)),
        (np.zeros((2, 3)), np.array([0, np.nan])),
        (np.full((2, 3), np.inf), np.zeros(2)),
    ],
)
def test_an_affine_map_that_can_t_be_is_refused(matrix, offset):
    with pytest.raises(MapMismatchError, match="expected a"):
        AffineMap(matrix.astype(np.float32), offset.astype(np.float32))


def test_an_affine_map_refuses_other_dimensions():
    map_ = AffineMap.linear(np.zeros((2, 3), np.float32))
    with pytest.raises(MapMismatchError, match=r"\(n, 3\)"):
        map_.apply(np.zeros((4, 2), np.float32))
    with pytest.raises(MapMismatchError, match="into 3 dimensions; found one into 2"):
        chain_affine([map_, map_])


# Moments.


def test_moments_are_what_slow_loops_add_up(pair):
    x, y = pair
    found = moments_of(x, y, block_rows=7)
    expected = {name: np.zeros_like(getattr(found, name)) for name in ("x", "y", "xx", "xy", "yy")}
    for a, b in zip(x.astype(np.float64), y.astype(np.float64), strict=True):
        expected["x"] += a
        expected["y"] += b
        for name, left, right in (("xx", a, a), ("xy", a, b), ("yy", b, b)):
            for i, value in enumerate(left):
                expected[name][i] += value * right
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-12)
    assert found.rows == 60


def test_neither_blocks_nor_order_nor_merging_matter(tmp_path, rng, pair):
    x, y = pair
    whole = Moments.of(x, y)
    order = rng.permutation(len(x))
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for found in (
        moments_of(mapped, y, block_rows=7),
        moments_of(x[order], y[order]),
        moments_of(x[:13], y[:13]) + moments_of(x[13:], y[13:]),
        moments_of(x[:0], y[:0]) + whole,
    ):
        same(found, whole, rtol=1e-12)


def squared_error(moments, map_):
    """The mean over the rows of ‖y − map(x)‖², multiplied out, from the moments alone."""
    matrix, offset = map_.matrix.astype(np.float64), map_.offset.astype(np.float64)
    around = np.trace(moments.yy) - 2 * np.sum(matrix.T * moments.xy)
    around += np.sum(matrix @ moments.xx * matrix)
    shift = offset @ (2 * (matrix @ moments.x - moments.y) + moments.rows * offset)
    return (around + shift) / moments.rows


def test_the_error_is_known_without_the_rows(rng, pair):
    x, y = pair
    map_ = AffineMap(vectors(rng, 3, 5), vectors(rng, 1, 3)[0])
    squares = ((y - map_.apply(x).astype(np.float64)) ** 2).sum(1)
    assert squared_error(moments_of(x, y), map_) == pytest.approx(squares.mean(), rel=1e-5)


# Ridge.


@pytest.mark.parametrize("intercept", [False, True])
def test_ridge_without_a_penalty_is_least_squares(pair, intercept):
    x, y = pair
    design = np.column_stack([x, np.ones(60)]) if intercept else x
    expected = np.linalg.lstsq(design, y, rcond=None)[0].T
    found = ridge(moments_of(x, y), penalty=0, intercept=intercept)
    np.testing.assert_allclose(found.matrix, expected[:, :5], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.offset, expected[:, 5] if intercept else 0, rtol=1e-4)


@pytest.mark.parametrize("intercept", [False, True])
def test_ridge_is_least_squares_with_rows_for_the_penalty(pair, intercept):
    x, y = (part.astype(np.float64) for part in pair)
    if intercept:
        x, y = x - x.mean(0), y - y.mean(0)
    pull = 0.3 * (x**2).sum() / 5  # penalty times the mean eigenvalue of XᵀX
    rows = np.concatenate([x, np.sqrt(pull) * np.eye(5)]), np.concatenate([y, np.zeros((5, 3))])
    expected = np.linalg.lstsq(*rows, rcond=None)[0].T
    found = ridge(moments_of(*pair), penalty=0.3, intercept=intercept)
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-5, atol=1e-6)


@given(st.floats(1e-3, 1e3), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_ridge_has_no_unit(scale, penalty):
    rng = np.random.default_rng(3)
    x, y = vectors(rng, 30, 4, shift=1), vectors(rng, 30, 3)
    one = ridge(moments_of(x, y), penalty=penalty)
    other = ridge(moments_of((scale * x).astype(np.float32), y), penalty=penalty)
    np.testing.assert_allclose(scale * other.matrix, one.matrix, rtol=1e-3, atol=1e-4)


def test_an_affine_copy_is_recovered(rng):
    x, truth, offset = vectors(rng, 50, 6), vectors(rng, 4, 6), vectors(rng, 1, 4)[0]
    y = x @ truth.T + offset
    found = ridge(moments_of(x, y), penalty=1e-9)
    np.testing.assert_allclose(found.matrix, truth, atol=1e-4)
    np.testing.assert_allclose(found.offset, offset, atol=1e-4)


def _constant(x):
    x[:, 1] = 3.0


def _zero(x):
    x[:] = 0


def _twins(x):
    x[:, 2] = x[:, 0]


@pytest.mark.parametrize("rows", [1, 3, 60])
@pytest.mark.parametrize("spoil", [_constant, _zero, _twins])
@pytest.mark.parametrize(
    "fit", [ridge, lambda m: ridge(m, penalty=0, intercept=False), procrustes, similarity]
)
def test_singular_input_gives_a_finite_map_of_bearable_size(rng, rows, spoil, fit):
    x, y = vectors(rng, rows, 5, shift=1), vectors(rng, rows, 3)
    spoil(x)
    map_ = fit(moments_of(x, y))  # an AffineMap is finite
    assert map_.matrix.shape == (3, 5)
    assert np.linalg.norm(map_.matrix) < 100


def test_the_least_of_all_perfect_maps_is_taken(rng):
    x, y = vectors(rng, 3, 8), vectors(rng, 3, 2)
    found = ridge(moments_of(x, y), penalty=0, intercept=False)
    np.testing.assert_allclose(found.matrix, (np.linalg.pinv(x) @ y).T, rtol=1e-3, atol=1e-4)


# Procrustes.


def test_a_rotation_is_recovered(rng):
    x, truth = vectors(rng, 200, 8), rotation(rng, 8)
    y = (x @ truth.T + 0.01 * rng.standard_normal((200, 8))).astype(np.float32)
    found = procrustes(moments_of(x, y))
    np.testing.assert_allclose(found.matrix, truth, atol=0.01)
    np.testing.assert_allclose(found.matrix @ found.matrix.T, np.eye(8), atol=1e-6)
    assert not found.offset.any()


def test_no_rotation_is_nearer(rng):
    x, y = vectors(rng, 40, 4), vectors(rng, 40, 4)
    moments = moments_of(x, y)
    best = squared_error(moments, procrustes(moments))
    for _ in range(200):
        other = AffineMap.linear(rotation(rng, 4).astype(np.float32))
        assert squared_error(moments, other) >= best - 1e-6


@pytest.mark.parametrize(("source", "target"), [(6, 4), (4, 6)])
def test_other_dimensions_are_a_rotation_among_zeros(rng, source, target):
    x, y = vectors(rng, 50, source), vectors(rng, 50, target)
    map_ = procrustes(moments_of(x, y)).matrix
    identity = map_ @ map_.T if source > target else map_.T @ map_
    np.testing.assert_allclose(identity, np.eye(4), atol=1e-6)
    padded = [np.pad(part, ((0, 0), (0, 6 - part.shape[1]))) for part in (x, y)]
    full = procrustes(moments_of(*padded)).matrix
    np.testing.assert_allclose(map_, full[:target, :source], atol=1e-5)


# Similarity.


def test_a_moved_scaled_rotation_is_recovered_from_few_rows(rng):
    x, truth, offset = vectors(rng, 12, 8, shift=3), rotation(rng, 8), vectors(rng, 1, 8)[0]
    y = (2.5 * x @ truth.T + offset).astype(np.float32)
    found = similarity(moments_of(x, y))
    np.testing.assert_allclose(found.matrix, 2.5 * truth, atol=1e-4)
    np.testing.assert_allclose(found.offset, offset, atol=1e-3)


@pytest.mark.parametrize("target", [3, 5, 7])
def test_no_scale_and_no_offset_is_better(rng, target):
    x, y = vectors(rng, 40, 5, shift=1), vectors(rng, 40, target, shift=-2)
    moments = moments_of(x, y)
    best = similarity(moments)
    least = squared_error(moments, best)
    middle = x.mean(0)
    for factor in (0.9, 1.1):
        around = best.offset + (1 - factor) * best.matrix @ middle
        assert squared_error(moments, AffineMap(factor * best.matrix, around)) > least
    for _ in range(20):
        moved = best.offset + 0.1 * vectors(rng, 1, target)[0]
        assert squared_error(moments, AffineMap(best.matrix, moved)) > least


# Orthogonal low rank.


@pytest.fixture
def old(rng):
    """Users (40, 4) and items (30, 4) of an older version."""
    return vectors(rng, 40, 4, shift=0.5), vectors(rng, 30, 4)


def led_back(new, old):
    maps = orthogonal_low_rank(moments_of(new[0], old[0]), moments_of(new[1], old[1]))
    return maps.user.apply(new[0]), maps.item.apply(new[1])


def test_another_basis_of_the_same_model_is_led_back_exactly(rng, old):
    basis = rng.standard_normal((4, 4)) + 2 * np.eye(4)
    users, items = old
    new = (users @ basis).astype(np.float32), (items @ np.linalg.inv(basis).T).astype(np.float32)
    for found, expected in zip(led_back(new, old), old, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_wider_version_with_little_beyond_the_old_rank_is_led_back(rng, old):
    mixing = rng.standard_normal((6, 6)) + 2 * np.eye(6)
    users, items = (np.pad(part, ((0, 0), (0, 2))) for part in old)
    users[:, 4:] = 1e-3 * rng.standard_normal((40, 2))
    items[:, 4:] = 1e-3 * rng.standard_normal((30, 2))
    new = (users @ mixing).astype(np.float32), (items @ np.linalg.inv(mixing).T).astype(np.float32)
    for found, expected in zip(led_back(new, old), old, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-2)


def test_scores_of_an_unrelated_model_are_kept(rng, old):
    new = vectors(rng, 40, 4), vectors(rng, 30, 4)
    users, items = led_back(new, old)
    np.testing.assert_allclose(users @ items.T, new[0] @ new[1].T, atol=1e-4)


def test_scores_of_a_wider_model_are_kept_as_well_as_the_rank_allows(rng, old):
    new = vectors(rng, 40, 7), vectors(rng, 30, 7)
    users, items = led_back(new, old)
    left, values, right = np.linalg.svd(new[0] @ new[1].T)
    best = left[:, :4] * values[:4] @ right[:4]
    np.testing.assert_allclose(users @ items.T, best, atol=1e-3)


def test_a_rotation_is_the_same_map_for_users_and_items(rng, old):
    turn = rotation(rng, 4).astype(np.float32)
    new = old[0] @ turn, old[1] @ turn
    maps = orthogonal_low_rank(moments_of(new[0], old[0]), moments_of(new[1], old[1]))
    np.testing.assert_allclose(maps.user.matrix, turn, atol=1e-5)
    np.testing.assert_allclose(maps.item.matrix, turn, atol=1e-5)


def test_a_direction_that_no_item_takes_is_dropped(old):
    users, items = old
    items[:, 2] = 0
    found_users, found_items = led_back((users, items), (users, items))
    np.testing.assert_allclose(found_users @ found_items.T, users @ items.T, atol=1e-4)


def test_a_model_of_zeros_is_led_to_zeros(old):
    new = np.zeros((40, 4), np.float32), np.zeros((30, 4), np.float32)
    for found in led_back(new, old):
        assert not found.any()


# Bad input.


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((3, 2)), np.zeros((4, 2))),
        (np.zeros(3), np.zeros((3, 2))),
        (np.zeros((3, 0)), np.zeros((3, 2))),
    ],
)
def test_rows_that_don_t_pair_up_are_refused(x, y):
    for gather in (Moments.of, moments_of):
        with pytest.raises(UsageError, match="of the same rows"):
            gather(x.astype(np.float32), y.astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused(pair, bad):
    x, y = pair
    y[3, 1] = bad
    with pytest.raises(InputError, match="among the older ones"):
        moments_of(x, y, block_rows=10)


def test_moments_of_nothing_or_of_other_spaces_are_refused(pair):
    x, y = pair
    nothing = moments_of(x[:0], y[:0])
    for fit in (ridge, procrustes, similarity, lambda m: orthogonal_low_rank(m, m)):
        with pytest.raises(UsageError, match="at least one row"):
            fit(nothing)
    narrow = moments_of(x[:, :4], y)
    with pytest.raises(UsageError, match="the same dimensions"):
        moments_of(x, y) + narrow
    with pytest.raises(UsageError, match="the same two spaces"):
        orthogonal_low_rank(moments_of(x, y), narrow)
    with pytest.raises(UsageError, match="penalty of at least 0"):
        ridge(narrow, penalty=-1)
