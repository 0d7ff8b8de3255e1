import numpy as np
import pytest

from backstay.errors import UsageError
from backstay.evaluation.analysis.summary import summarise
from backstay.evaluation.comparison.results import Record, Replicates
from backstay.evaluation.metrics.alignment import alignment_error, distances


def record(method, version, task, value, *, seed=0):
    metric = {"recommendation": "recall@50", "alignment": "alignment_error"}.get(task, "roc_auc")
    return Record(method=method, version=version, task=task, metric=metric, seed=seed, value=value)


def test_alignment_error_is_the_mean_distance(monkeypatch):
    monkeypatch.setattr("backstay.evaluation.metrics.alignment.BLOCK_ROWS", 3)
    rng = np.random.default_rng(0)
    users, items, users_0, items_0 = (
        rng.normal(size=(n, 5)).astype(np.float32) for n in (7, 4, 7, 4)
    )
    slow = [
        sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) ** 0.5
        for ours, theirs in ((users, users_0), (items, items_0))
        for pair in zip(ours.astype(np.float64), theirs.astype(np.float64), strict=True)
    ]
    assert alignment_error([users, items], [users_0, items_0]) == pytest.approx(np.mean(slow))
    assert alignment_error([users], [users]) == 0
    moved = users + np.array([3, 4, 0, 0, 0], np.float32)
    assert alignment_error([moved], [users]) == pytest.approx(5, rel=1e-6)
    with pytest.raises(UsageError, match="shape"):
        alignment_error([users], [users_0[:, :4]])
    for found, reference in (([], []), ([users], []), ([users[:0]], [users[:0]])):
        with pytest.raises(UsageError, match="every entity"):
            alignment_error(found, reference)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_distances_are_those_of_each_row_in_blocks_of_any_size(rows, monkeypatch):
    monkeypatch.setattr("backstay.evaluation.metrics.alignment.BLOCK_ROWS", rows)
    rng = np.random.default_rng(1)
    found, reference = (rng.normal(size=(7, 5)).astype(np.float32) for _ in range(2))
    got = distances(found, reference)
    assert got.dtype == np.float64
    for n in range(7):
        squares = [(float(a) - float(b)) ** 2 for a, b in zip(found[n], reference[n], strict=True)]
        assert got[n] == pytest.approx(sum(squares) ** 0.5)
    assert got.mean() == pytest.approx(
        alignment_error([found[:3], found[3:]], [reference[:3], reference[3:]])
    )
    assert distances(found[:0], reference[:0]).shape == (0,)


def test_figures_of_a_small_comparison():
    records = [
        record("no-bc", 0, "recommendation", 0.2),
        record("no-bc", 1, "recommendation", 0.4),
        record("fix-m0", 0, "recommendation", 0.2),
        record("fix-m0", 1, "recommendation", 0.1),
        # two versions of one task weigh as much as one of the other, whatever the seeds
        record("fix-m0", 1, "edge_rating", 0.8),
        record("fix-m0", 2, "edge_rating", 0.6),
        record("fix-m0", 2, "user_activity", 0.8, seed=0),
        record("fix-m0", 2, "user_activity", 1.0, seed=1),
        record("no-bc", 1, "edge_rating", 0.5),
        record("no-bc", 2, "edge_rating", 0.5),
        record("no-bc", 2, "user_activity", 0.7),
        record("no-bc", 0, "alignment", 0.0),
        record("no-bc", 1, "alignment", 3.0),
    ]
    fixed, free = summarise(records, ("fix-m0", "no-bc"))
    assert fixed.intended_recall50 == pytest.approx(0.15)
    assert fixed.intended_pct == pytest.approx(-50)
    assert fixed.unintended_auc == pytest.approx((0.7 + 0.9) / 2)
    assert fixed.unintended_pct == 0
    assert fixed.total_pct == pytest.approx(-50)
    assert fixed.alignment_error is None
    assert fixed.fit_seconds is None
    assert free.intended_pct == 0
    assert free.unintended_auc == pytest.approx(0.6)
    assert free.unintended_pct == pytest.approx(-25)
    assert free.total_pct == pytest.approx(-25)
    assert free.alignment_error == pytest.approx(1.5)


def test_the_published_arithmetic(results):
    rows = {row.method: row for row in results.summary}
    assert next(iter(rows)) == "fix-m0"
    assert len(rows) == 12
    assert rows["bc-aligner"].unintended_pct == pytest.approx(-1.0)
    recall = [0.25, 0.27, 0.29, 0.31, 0.33]
    expected = 100 * (-0.05) * sum(recall[1:]) / sum(recall)
    assert rows["bc-aligner"].intended_pct == pytest.approx(expected)
    assert rows["bc-aligner"].total_pct == pytest.approx(expected - 1)
    assert rows["bc-aligner"].alignment_error == pytest.approx(0.9 * 4 / 5)
    assert rows["bc-aligner"].fit_seconds == pytest.approx(8 * 61.5)


def test_without_a_baseline_of_the_same_cover_there_is_no_percentage():
    records = [
        record("bc-aligner", 0, "recommendation", 0.2),
        record("bc-aligner", 1, "recommendation", 0.2),
        record("bc-aligner", 1, "edge_rating", 0.6),
    ]
    (row,) = summarise(records, ("bc-aligner",))
    assert row.intended_recall50 == pytest.approx(0.2)
    assert (row.intended_pct, row.unintended_pct, row.total_pct) == (None, None, None)
    records += [record("no-bc", 0, "recommendation", 0.2)]
    records += [record("fix-m0", 1, "edge_rating", 0.6)]
    row, _ = summarise(records, ("bc-aligner", "no-bc"))
    assert (row.intended_pct, row.unintended_pct, row.total_pct) == (None, 0, None)


def test_intervals_are_those_of_the_replicates_where_there_is_a_percentage():
    records = [
        record("fix-m0", 0, "recommendation", 0.1),
        record("no-bc", 0, "recommendation", 0.2),
        record("fix-m0", 1, "edge_rating", 0.8),
        record("no-bc", 1, "edge_rating", 0.6),
    ]
    shares = np.linspace(0.4, 0.6, 41)
    replicates = (
        Replicates(method="fix-m0", recall=tuple(0.2 * shares), auc=(0.8,) * 41),
        Replicates(method="no-bc", recall=(0.2,) * 41, auc=tuple(0.8 * shares)),
    )
    fixed, free = summarise(records, ("fix-m0", "no-bc"), replicates=replicates)
    assert fixed.intended_interval == pytest.approx((-59.5, -40.5))
    assert fixed.unintended_interval == (0, 0)
    assert fixed.total_interval == pytest.approx((-59.5, -40.5))
    assert free.intended_interval == (0, 0)
    assert free.unintended_interval == pytest.approx((-59.5, -40.5))
    # one version less than its baseline: neither a percentage nor how sure it is
    records.append(record("fix-m0", 2, "edge_rating", 0.8))
    _, free = summarise(records, ("fix-m0", "no-bc"), replicates=replicates)
    assert (free.unintended_pct, free.unintended_interval) == (None, None)
    assert (free.total_pct, free.total_interval) == (None, None)
    assert free.intended_interval == (0, 0)
    (without, _) = summarise(records, ("fix-m0", "no-bc"))
    assert without.intended_interval is None
