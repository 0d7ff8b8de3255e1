"""Replicates of a method's figures are averaged as the figures themselves."""

import numpy as np
import pytest

from backstay.evaluation.analysis.significance import percentages
from backstay.evaluation.analysis.summary import mean_over_tasks, values_of
from backstay.evaluation.comparison.replicates import collect_replicates
from backstay.evaluation.comparison.results import Record


def test_figures_of_replicates_are_made_as_the_figures_themselves():
    rng = np.random.default_rng(4)
    cover = {"edge_rating": (1, 2, 3), "user_activity": (2, 3)}
    recalls = {"m": {version: rng.random(12) for version in range(4)}}
    aucs = {"m": {task: {k: rng.random(12) for k in versions} for task, versions in cover.items()}}
    (found,) = collect_replicates(recalls, aucs)
    for b in range(12):
        records = [
            Record(method="m", version=k, task=task, metric=metric, seed=0, value=float(row[b]))
            for metric, tasks in (
                ("recall@50", {"recommendation": recalls["m"]}),
                ("roc_auc", aucs["m"]),
            )
            for task, versions in tasks.items()
            for k, row in versions.items()
        ]
        for metric, replicates in (("recall@50", found.recall), ("roc_auc", found.auc)):
            point = mean_over_tasks(values_of(records, metric)["m"])
            assert replicates[b] == pytest.approx(point, abs=1e-12)


def test_an_undefined_replicate_is_left_out_for_all_methods_alike():
    rows = {name: {0: np.arange(1.0, 9.0) + n} for n, name in enumerate(("no-bc", "fix-m0"))}
    aucs = {"fix-m0": {"edge_rating": {1: np.where(np.arange(8) == 2, np.nan, 0.5)}}}
    first, second = collect_replicates(rows, aucs)
    assert first.recall == (1, 2, 4, 5, 6, 7, 8)
    assert second.recall == (2, 3, 5, 6, 7, 8, 9)
    assert (first.auc, second.auc) == ((), (0.5,) * 7)
    assert set(percentages((first, second))["intended_pct"]) == {"no-bc", "fix-m0"}
    hardly_any = {"fix-m0": {"edge_rating": {1: np.where(np.arange(8) < 5, np.nan, 0.5)}}}
    assert collect_replicates(rows, hardly_any) == ()
    assert collect_replicates({}, {}) == ()


def test_a_method_without_results_is_a_row_without_replicates():
    assert collect_replicates({"a": {}}, {"a": {}}) == ()
    empty, full = collect_replicates({"a": {}, "b": {0: np.ones(4)}}, {"a": {}})
    assert (empty.method, empty.recall, empty.auc) == ("a", (), ())
    assert (full.recall, full.auc) == ((1.0,) * 4, ())
