"""Resamples are the same for all methods; figures equal those of repeated examples."""

from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.errors import TrainingError, UsageError
from backstay.evaluation.metrics.bootstrap import (
    _POISSON,
    Resamples,
    Units,
    auc_replicates,
    defined_interval,
    mean_over_seeds,
    mean_replicates,
)
from backstay.evaluation.metrics.roc_auc import roc_auc

FEW = Resamples(seed=3, count=12)


def units_of(*index, kind="user"):
    return Units(kind, np.array(index))


def drawn(units, resamples=FEW):
    """How often every example is drawn in every replicate, (B, n)."""
    return np.concatenate([counts for _, counts in resamples.blocks(units)]).astype(int)


@pytest.fixture(scope="module", params=[1, 50, 1 << 20], autouse=True)
def _block(request):
    """Every test runs with several block sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backstay.evaluation.metrics.bootstrap.BLOCK_COUNTS", request.param)
        yield


def test_a_units_count_depends_on_the_unit_alone():
    many, few = drawn(units_of(*range(1000))), drawn(units_of(3, 999, 3, 0))
    assert many.shape == (12, 1000)
    np.testing.assert_array_equal(few, many[:, [3, 999, 3, 0]])
    np.testing.assert_array_equal(drawn(units_of(3, 0)), many[:, [3, 0]])  # fewer units known
    assert (drawn(units_of(*range(1000), kind="item")) != many).any()
    assert (drawn(units_of(*range(1000)), replace(FEW, seed=4)) != many).any()
    assert (many[0] != many[1]).any()


def test_more_replicates_begin_with_the_same():
    units = units_of(*range(20))
    np.testing.assert_array_equal(drawn(units, replace(FEW, count=30))[:12], drawn(units))


def test_counts_are_those_of_drawing_with_replacement():
    assert len(_POISSON) == 1 << 16
    assert _POISSON.mean() == pytest.approx(1, abs=1e-4)
    assert _POISSON.var() == pytest.approx(1, abs=1e-3)
    shares = np.bincount(_POISSON)[:4] / (1 << 16)
    assert shares == pytest.approx(np.exp(-1) / np.array([1, 1, 2, 6]), abs=2e-5)
    counts = drawn(units_of(*range(10_000)))
    assert counts.mean(axis=1) == pytest.approx(np.ones(12), abs=0.05)
    neighbours = np.corrcoef(counts)[np.triu_indices(12, 1)]
    assert np.abs(neighbours).max() < 0.05  # replicates are independent of each other


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-2, 2), st.booleans(), st.integers(0, 6)), min_size=2, max_size=30
    )
)
def test_roc_auc_is_that_of_the_examples_repeated_as_drawn(rows):
    scores = np.array([score for score, _, _ in rows], np.float32)
    labels = np.array([label for _, label, _ in rows])
    units = units_of(*(unit for _, _, unit in rows))
    if labels.all() or not labels.any():
        with pytest.raises(UsageError, match="positive and negative"):
            auc_replicates(scores, labels, units, FEW)
        return
    found = auc_replicates(scores, labels, units, FEW)
    for value, counts in zip(found, drawn(units), strict=True):
        again = [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]
        positive = [score for score, label, _ in again if label]
        negative = [score for score, label, _ in again if not label]
        if not positive or not negative:
            assert np.isnan(value)
            continue
        won = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
        assert value == pytest.approx(won / len(positive) / len(negative), abs=1e-12)


class DrawnOnce(Resamples):
    """Draws every example once in every replicate."""

    def blocks(self, units):
        yield slice(0, self.count), np.ones((self.count, len(units.index)), np.uint8)


def test_roc_auc_of_examples_drawn_once_each_is_the_figure_itself():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=300).round(1), rng.random(300) < 0.3
    found = auc_replicates(
        scores, labels, Units("user", rng.integers(0, 40, 300)), DrawnOnce(count=12)
    )
    assert found == pytest.approx(np.full(12, roc_auc(scores, labels)), abs=1e-12)


def test_means_are_those_of_the_values_repeated_as_drawn():
    rng = np.random.default_rng(1)
    values, units = rng.random(30), Units("user", rng.choice(100, 30, replace=False))
    found = mean_replicates(values, units, FEW)
    for value, counts in zip(found, drawn(units), strict=True):
        assert value == pytest.approx(fmean(np.repeat(values, counts).tolist()))


def test_a_replicate_that_draws_nothing_has_no_mean():
    found = mean_replicates(np.array([0.25]), units_of(5), FEW)
    counts = drawn(units_of(5))[:, 0]
    assert 0 < (counts == 0).sum() < 12
    np.testing.assert_array_equal(found, np.where(counts, 0.25, np.nan))


def test_equal_methods_differ_by_exactly_0_and_differences_are_paired():
    rng = np.random.default_rng(2)
    units = Units("user", rng.integers(0, 50, 400))
    scores, labels = rng.normal(size=400), rng.random(400) < 0.5
    first, again = (auc_replicates(scores.copy(), labels, units, FEW) for _ in range(2))
    assert (first - again == 0).all()
    # Scores in the same order give the same figure: only what users do moves both.
    np.testing.assert_array_equal(auc_replicates(np.exp(scores), labels, units, FEW), first)
    per_user = rng.random(50)
    users = units_of(*range(50))
    gap = mean_replicates(per_user + 0.1, users, FEW) - mean_replicates(per_user, users, FEW)
    assert gap == pytest.approx(np.full(12, 0.1))


def test_consumer_seeds_are_drawn_with_replacement_and_alike_for_every_method():
    replicates = np.arange(36.0).reshape(3, 12)
    found = mean_over_seeds(replicates, task="edge_rating", resamples=FEW)
    seeds = FEW.seeds("edge_rating", 3)
    for b in range(12):
        assert found[b] == pytest.approx(fmean(replicates[seed, b] for seed in seeds[b]))
    assert any(len(set(row)) < 3 for row in seeds.tolist())
    assert set(seeds.ravel().tolist()) == {0, 1, 2}
    assert (FEW.seeds("user_activity", 3) != seeds).any()
    np.testing.assert_array_equal(
        mean_over_seeds(replicates[:1], task="edge_rating", resamples=FEW), replicates[0]
    )


def test_an_interval_leaves_out_undefined_replicates_and_needs_half_of_them():
    values = np.linspace(0, 1, 41)
    assert defined_interval(values) == pytest.approx((0.025, 0.975))
    assert defined_interval(np.append(values, np.nan)) == defined_interval(values)
    assert defined_interval(np.array([1.0, np.nan])) == (1.0, 1.0)
    assert defined_interval(np.array([1.0, np.nan, np.nan])) is None
    assert defined_interval(np.array([])) is None


def test_refuses_units_of_another_length_and_scores_that_are_nan():
    labels = np.array([True, False])
    with pytest.raises(UsageError, match="one unit a score"):
        auc_replicates(np.zeros(2), labels, units_of(0), FEW)
    with pytest.raises(UsageError, match="one unit a value"):
        mean_replicates(np.zeros(2), units_of(0), FEW)
    with pytest.raises(TrainingError, match="not a number"):
        auc_replicates(np.array([0.0, np.nan]), labels, units_of(0, 1), FEW)


@pytest.fixture(scope="module")
def simulated():
    """200 experiments with edges in clusters by user: do the intervals cover the truth?

    A user's edges share the user's shift, so that edges drawn one by one would claim too much.
    """
    rng = np.random.default_rng(5)
    users = np.repeat(np.arange(60), 8)
    shifts = rng.normal(size=(200, 60))
    return users, shifts[:, users] + 0.5 * rng.normal(size=(200, 480))


def test_intervals_cover_the_truth_at_their_level(simulated):
    users, values = simulated
    resamples = Resamples()
    covered = {}
    for name, index in (("user", users), ("edge", np.arange(480))):
        counts = drawn(Units("user", index), resamples)
        means = (values @ counts.T) / counts.sum(axis=1)
        assert means[0] == pytest.approx(
            mean_replicates(values[0], Units("user", index), resamples)
        )
        intervals = [defined_interval(row) for row in means]
        covered[name] = fmean(low <= 0 <= high for low, high in intervals)
    assert 0.9 <= covered["user"] <= 0.99
    assert covered["edge"] < 0.7
