"""The figures of a comparison on one small case, computed from their definitions in plain Python.

Three versions of four users and six items: version 2's vectors are mapped through B_2 and B_1 to
version 0, ranked there, and scored by a linear consumer.
"""

import numpy as np
import pytest
import torch

from backstay.compat.losses import multi_step, single_step
from backstay.compat.maps import BackwardMap, Vectors, compose
from backstay.evaluation.metrics.alignment import alignment_error
from backstay.evaluation.metrics.roc_auc import roc_auc
from tests.support.recall import recall_at_k
from tests.support.snapshots import step_of

DIMS = (2, 3, 4)
USERS, ITEMS = 4, 6
TRAIN = [(0, 0), (0, 1), (1, 2), (2, 3), (3, 0), (3, 5)]
VALIDATION = [(0, 2), (0, 4), (1, 0), (1, 2), (2, 5), (2, 5), (2, 1)]


def draw(rng, *shape):
    """Quarters: their products and sums are exact, and some of them tie."""
    return (rng.integers(-6, 7, shape) / 4).astype(np.float32)


@pytest.fixture(params=range(8))
def case(request):
    """z_0, z_1 and z_2 (10, D_k), users first, and B_1 and B_2."""
    rng = np.random.default_rng(request.param)
    vectors = [draw(rng, USERS + ITEMS, dim) for dim in DIMS]
    return vectors, [draw(rng, DIMS[k - 1], DIMS[k]) for k in (1, 2)]


def dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def apply(matrix, row):
    return [dot(line, row) for line in matrix]


def lead_back(vectors, maps):
    """z̃_0 of version 2, row by row and map by map."""
    first, second = (matrix.tolist() for matrix in maps)
    return [apply(first, apply(second, row)) for row in vectors[2].tolist()]


def test_the_composed_chain(case):
    vectors, maps = case
    chain = compose([BackwardMap("s", k, k - 1, matrix) for k, matrix in enumerate(maps, 1)])
    found = chain.convert(Vectors("s", 2, vectors[2]))
    assert found.values.tolist() == lead_back(vectors, maps)
    entries = [
        [sum(maps[0][i][m] * maps[1][m][j] for m in range(3)) for j in range(4)] for i in range(2)
    ]
    assert chain.matrix.tolist() == entries


def test_both_alignment_losses(case):
    vectors, maps = case
    residuals = [
        [old - found for old, found in zip(z_1, apply(maps[1].tolist(), z_2), strict=True)]
        for z_1, z_2 in zip(vectors[1].tolist(), vectors[2].tolist(), strict=True)
    ]
    carried = [apply(maps[0].tolist(), row) for row in residuals]
    single, below = (
        sum(value**2 for row in rows for value in row) / sum(len(row) for row in rows)
        for rows in (residuals, carried)
    )
    z_1, z_2, b_1, b_2 = map(torch.from_numpy, (vectors[1], vectors[2], *maps))
    residual = z_1 - z_2 @ b_2.T
    assert single_step(residual).item() == pytest.approx(single, rel=1e-6)
    assert multi_step(residual, [b_1]).item() == pytest.approx((single + below) / 2, rel=1e-6)


def test_the_alignment_error(case):
    vectors, maps = case
    found = lead_back(vectors, maps)
    lengths = [
        sum((a - b) ** 2 for a, b in zip(*rows, strict=True)) ** 0.5
        for rows in zip(found, vectors[0].tolist(), strict=True)
    ]
    table = np.array(found, np.float32)
    assert alignment_error([table], [vectors[0]]) == pytest.approx(sum(lengths) / len(lengths))


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_recall_at_k(case, k):
    vectors, maps = case
    found = lead_back(vectors, maps)
    recalls = []
    for user in sorted({user for user, _ in VALIDATION}):
        seen = {item for other, item in TRAIN if other == user}
        wanted = {item for other, item in VALIDATION if other == user}
        scores = {i: dot(found[user], found[USERS + i]) for i in range(ITEMS) if i not in seen}
        hits = 0.0
        for item in wanted - seen:
            better = sum(score > scores[item] for score in scores.values())
            level = sum(score == scores[item] for score in scores.values())
            hits += min(1, max(0, (k - better) / level))  # those who tie share the places left
        recalls.append(hits / len(wanted))
    step = step_of(TRAIN, validation=VALIDATION, n_users=USERS, n_items=ITEMS)
    table = np.array(found, np.float32)
    got = recall_at_k(table[:USERS], table[USERS:], step, k=k)
    assert got.values.tolist() == pytest.approx(recalls)
    assert got.mean == pytest.approx(sum(recalls) / len(recalls))


def test_roc_auc(case):
    vectors, maps = case
    weights = (1.0, -0.5)
    scores = [dot(weights, row) for row in lead_back(vectors, maps)]
    labels = [n % 3 == 0 for n in range(USERS + ITEMS)]
    pairs = [
        1.0 if above > below else 0.5 if above == below else 0.0
        for above, positive in zip(scores, labels, strict=True)
        if positive
        for below, other in zip(scores, labels, strict=True)
        if not other
    ]
    assert roc_auc(np.array(scores), np.array(labels)) == pytest.approx(sum(pairs) / len(pairs))
