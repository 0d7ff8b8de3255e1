import numpy as np
import pytest

from backstay.compat.maps import AffineMap
from backstay.evaluation.table_maps import judge as module
from backstay.evaluation.table_maps.judge import judge


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def slowly(map_, newer, older, gallery):
    """Cosine, overlap and found for each id, by sorting Python lists."""

    def cosine(a, b):
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    rows = []
    for n, (x, y) in enumerate(zip(newer, older, strict=True)):
        mapped = map_.matrix.astype(np.float64) @ x + map_.offset
        by_old = sorted((-cosine(y, g), m) for m, g in enumerate(gallery) if m != n)
        by_mapped = sorted((-cosine(mapped, g), m) for m, g in enumerate(gallery) if m != n)
        near_old, near = ({m for _, m in ranked[:10]} for ranked in (by_old, by_mapped))
        above = sum(score < -cosine(mapped, y) for score, _ in by_mapped)
        rows.append((cosine(mapped, y), len(near & near_old) / 10, float(above < 10)))
    return np.array(rows).T


def test_a_map_is_judged_as_slow_loops_do(rng, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_QUERIES", 7)
    gallery = rng.standard_normal((60, 4)).astype(np.float32)
    older, newer = gallery[:20], rng.standard_normal((20, 5)).astype(np.float32)
    newer[:, :4] += 2 * older
    map_ = AffineMap(
        np.eye(4, 5, dtype=np.float32) + 0.1 * rng.standard_normal((4, 5)).astype(np.float32),
        rng.standard_normal(4).astype(np.float32) / 5,
    )
    found = judge({"one": map_}, newer, older, gallery)["one"]
    cosine, overlap, again = slowly(map_, newer, older, gallery)
    np.testing.assert_allclose(found.cosine, cosine, atol=1e-5)
    np.testing.assert_allclose(found.overlap, overlap, atol=1e-9)
    np.testing.assert_array_equal(found.found, again)
    assert 0.2 < overlap.mean() < 0.9
    assert again.mean() > 0
    error = np.linalg.norm(map_.apply(newer) - older) / np.linalg.norm(older - older.mean(0))
    assert found.relative_error == pytest.approx(error, rel=1e-5)


def test_the_right_map_is_perfect_and_its_opposite_is_not(rng):
    gallery = rng.standard_normal((80, 6)).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0].astype(np.float32)
    newer = gallery[:30] @ turn
    right, wrong = judge(
        {"right": AffineMap.linear(turn), "wrong": AffineMap.linear(-turn)},
        newer,
        gallery[:30],
        gallery,
    ).values()
    for values, expected in ((right.cosine, 1), (right.overlap, 1), (right.found, 1)):
        np.testing.assert_allclose(values, expected, atol=1e-5)
    assert right.relative_error == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(wrong.cosine, -1, atol=1e-5)
    assert not wrong.found.any()


def test_copies_share_places_and_count_as_neighbours(rng):
    gallery = np.repeat(rng.standard_normal((4, 5)), 20, axis=0).astype(np.float32)
    found = judge({0: AffineMap.linear(np.eye(5, dtype=np.float32))}, gallery, gallery, gallery)[0]
    np.testing.assert_allclose(found.permitted, 0.5)  # 10 places for 20 copies
    np.testing.assert_allclose(found.found, 0.5)
    np.testing.assert_allclose(found.overlap, 1)


def test_vectors_of_zeros_are_far_from_everything(rng):
    gallery = rng.standard_normal((40, 3)).astype(np.float32)
    found = judge(
        {0: AffineMap.linear(np.zeros((3, 3), np.float32))}, gallery[:9], gallery[:9], gallery
    )[0]
    assert not found.cosine.any()
    np.testing.assert_allclose(found.found, 10 / 40)  # all are as near: chance
    same = np.ones((40, 3), np.float32)
    still = judge({0: AffineMap.linear(np.eye(3, dtype=np.float32))}, same[:9], same[:9], same)[0]
    assert still.relative_error is None
