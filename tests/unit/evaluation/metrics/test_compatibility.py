from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.errors import UsageError
from backstay.evaluation.metrics.alignment import distances
from backstay.evaluation.metrics.compatibility import (
    SLICES_OF_ENTITIES,
    error_by_slice,
    flip_rates,
    retention,
    spectrum,
)
from tests.support.snapshots import step_of


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.booleans()), min_size=1))
def test_flip_rates_count_decisions_one_by_one(rows):
    negative = positive = 0
    for old, new, label in rows:
        was, is_ = (old > 0) == label, (new > 0) == label
        negative += was and not is_
        positive += is_ and not was
    old, new, labels = (np.array(column) for column in zip(*rows, strict=True))
    found = flip_rates(old, new, labels)
    assert found.negative == pytest.approx(negative / len(rows))
    assert found.positive == pytest.approx(positive / len(rows))
    back = flip_rates(new, old, labels)
    assert (back.negative, back.positive) == (found.positive, found.negative)
    same = flip_rates(old, old, labels)
    assert (same.negative, same.positive) == (0, 0)


def test_flip_rates_known_answer():
    labels = np.array([True, True, False, False, True])
    old, new = np.array([1.0, -1, -1, 1, 1]), np.array([-1.0, 1, 1, 1, 2])
    found = flip_rates(old, new, labels)
    assert (found.negative, found.positive) == (2 / 5, 1 / 5)
    # a logit of 0 is no decision for a positive
    assert flip_rates(np.ones(1), np.zeros(1), np.ones(1, np.bool_)).negative == 1
    with pytest.raises(UsageError, match="each label"):
        flip_rates(old, new[:-1], labels)
    with pytest.raises(UsageError, match="at least one"):
        flip_rates(old[:0], new[:0], labels[:0])


def test_retention_is_the_share_above_chance():
    assert retention(0.7, 0.9) == pytest.approx(0.5)
    assert retention(0.9, 0.9) == 1
    assert retention(0.4, 0.6) == pytest.approx(-1)
    assert retention(0.7, 0.5) is None
    assert retention(0.7, 0.4) is None


def rotation(rng, dim):
    return np.linalg.qr(rng.normal(size=(dim, dim)))[0]


@pytest.mark.parametrize(("target", "source"), [(4, 4), (4, 7), (7, 4)])
def test_spectrum_of_a_matrix_made_of_known_singular_values(target, source):
    rng = np.random.default_rng(0)
    middle = np.zeros((target, source))
    np.fill_diagonal(middle, [6, 3, 2, 1.5])
    matrix = (rotation(rng, target) @ middle @ rotation(rng, source)).astype(np.float32)
    found = spectrum(matrix)
    assert found.norm == pytest.approx(6, rel=1e-5)
    assert found.condition == pytest.approx(4, rel=1e-5)
    # no vector is stretched by more than the norm, and one by exactly the norm
    directions = rng.normal(size=(500, source))
    stretched = np.linalg.norm(directions @ matrix.T, axis=1) / np.linalg.norm(directions, axis=1)
    assert stretched.max() <= found.norm * (1 + 1e-6)
    leading = np.linalg.svd(matrix)[2][0]
    assert np.linalg.norm(matrix @ leading) == pytest.approx(found.norm)


def test_a_rotation_stretches_nothing_and_a_lost_direction_has_no_condition():
    rng = np.random.default_rng(1)
    found = spectrum(rotation(rng, 6).astype(np.float32))
    assert (found.norm, found.condition) == (pytest.approx(1), pytest.approx(1))
    low_rank = (rng.normal(size=(6, 2)) @ rng.normal(size=(2, 9))).astype(np.float32)
    assert spectrum(low_rank).condition is None
    nothing = spectrum(np.zeros((2, 3), np.float32))
    assert (nothing.norm, nothing.condition) == (0, None)


def slow_slices(found, reference, step, known_users, known_items):
    """The slices' definitions, entity by entity."""
    errors = [
        sum((float(a) - float(b)) ** 2 for a, b in zip(*rows, strict=True)) ** 0.5
        for rows in zip(found, reference, strict=True)
    ]
    edges = [sum(item == i for item in step.train.items) for i in range(step.n_items)]
    ranked = sorted(range(step.n_known_items), key=lambda i: (-edges[i], i))
    head = {i for place, i in enumerate(ranked) if place < step.n_known_items / 10}
    tail = {i for place, i in enumerate(reversed(ranked)) if place + 1 <= step.n_known_items / 2}
    slices = {name: [] for name in SLICES_OF_ENTITIES}
    for user in range(step.n_users):
        slices["users"].append(errors[user])
        if user >= known_users:
            slices["new"].append(errors[user])
    for item in range(step.n_items):
        error = errors[step.n_users + item]
        slices["items"].append(error)
        for name, inside in (
            ("head_items", item in head),
            ("tail_items", item in tail),
            ("new", item >= known_items),
        ):
            if inside:
                slices[name].append(error)
    return {name: sum(part) / len(part) for name, part in slices.items() if part}


def random_case(rng, *, n_users, n_items, n_known_items):
    edges = np.stack([rng.integers(0, n_users, 60), rng.integers(0, n_known_items, 60)], 1)
    step = replace(step_of(edges, n_users=n_users, n_items=n_items), n_known_items=n_known_items)
    tables = [rng.normal(size=(n_users + n_items, 3)).astype(np.float32) for _ in range(2)]
    return step, tables


@pytest.mark.parametrize(("n_items", "n_known_items"), [(30, 21), (30, 30), (12, 10), (4, 1)])
def test_errors_by_slice_are_the_slow_loops(n_items, n_known_items):
    rng = np.random.default_rng(n_known_items)
    step, (found, reference) = random_case(
        rng, n_users=8, n_items=n_items, n_known_items=n_known_items
    )
    slices = error_by_slice(distances(found, reference), step, known_users=5, known_items=1)
    slow = slow_slices(found, reference, step, 5, 1)
    assert slices == pytest.approx(slow)
    assert ("tail_items" in slices) == (n_known_items > 1)


def test_a_slice_without_entities_is_left_out():
    step, (found, reference) = random_case(
        np.random.default_rng(0), n_users=3, n_items=5, n_known_items=5
    )
    errors = distances(found, reference)
    slices = error_by_slice(errors, step, known_users=3, known_items=5)
    assert set(slices) == set(SLICES_OF_ENTITIES) - {"new"}
    with pytest.raises(UsageError, match="3 users and 5 items"):
        error_by_slice(errors[:-1], step, known_users=3, known_items=5)
