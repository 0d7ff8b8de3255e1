"""The comparison of all methods in this process: shared fits, figures, failures, resuming."""

import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from backstay.compat.methods import METHODS
from backstay.errors import TrainingError, UsageError
from backstay.evaluation.analysis.significance import pairs
from backstay.evaluation.comparison.cell_store import CellStore
from backstay.evaluation.comparison.keys import FitKey
from backstay.evaluation.comparison.results import RETRIEVAL, Failure
from backstay.evaluation.comparison.run import SharedInputs, prepare_shared_inputs
from backstay.evaluation.comparison.runner import InProcess
from backstay.evaluation.consumers.labels import TASKS
from backstay.evaluation.metrics.compatibility import SLICES_OF_ENTITIES
from tests.support.recall import recall_at_k
from tests.support.small_comparison import (
    DIMS,
    Breaking,
    Changed,
    Recorder,
    compare,
    small_comparison,
    small_data,
    small_plan,
    values,
)

VERSIONS = range(len(DIMS))
FEW = ("fix-m0", "no-bc", "posthoc-ridge")
"""A frozen method, one whose models are shared, and one that maps shared models."""


@pytest.fixture(scope="module")
def data():
    return small_data()


@pytest.fixture(scope="module")
def comparison():
    return small_comparison()


@pytest.fixture(scope="module")
def results(comparison):
    return comparison.results


@pytest.fixture(scope="module")
def shared(data, comparison):
    return SharedInputs(comparison.fit(None, 0), comparison.consumers(data))


@pytest.fixture
def few():
    return replace(small_plan(), methods=FEW)


def row_of(results, method):
    return next(row for row in results.summary if row.method == method)


# Figures


@pytest.mark.parametrize("method", METHODS)
def test_every_version_consumer_and_seed_has_its_records(results, method):
    fits = {(version, 42) for version in VERSIONS}
    assert set(values(results, method, "recommendation", "recall@50")) == fits
    assert set(values(results, method, RETRIEVAL, "recall@50")) == fits - {(0, 42)}
    for slice_ in ("", *(f"/{name}" for name in SLICES_OF_ENTITIES)):
        assert set(values(results, method, f"alignment{slice_}", "alignment_error")) == fits
    for task in TASKS:
        judged = (2,) if "activity" in task else (1, 2)
        expected = {(version, seed) for version in judged for seed in (0, 1)}
        for metric in ("roc_auc", "negative_flip_rate", "positive_flip_rate"):
            assert set(values(results, method, task, metric)) == expected


def test_the_table_has_every_method_in_order_with_all_its_figures(results):
    assert [row.method for row in results.summary] == list(METHODS)
    assert all(None not in vars(row).values() for row in results.summary)
    assert results.failures == ()
    assert [part.method for part in results.replicates] == list(METHODS)
    assert results.protocol["left_out"] == []


def test_each_recall_is_that_of_the_cells_own_vectors(data, comparison):
    for method in METHODS:
        found = values(comparison.results, method, "recommendation", "recall@50")
        for step, fitted in zip(data.steps, comparison.line(method, 2), strict=True):
            z = fitted.model.embed(step, data.attributes)
            expected = recall_at_k(z[: step.n_users], z[step.n_users :], step).mean
            assert found[step.index, 42] == expected


def test_version_0_is_one_model_for_all_methods_and_so_are_models_from_scratch(comparison):
    fits = Counter(key.version for key in comparison.keys if isinstance(key, FitKey))
    assert fits == {0: 1, 1: 12, 2: 12}
    posthoc = [name for name, method in METHODS.items() if method.posthoc]
    for version in (1, 2):
        scratch = comparison.fit("no-bc", version)
        assert scratch.backward == ()
        for method in posthoc:
            mapped = comparison.fit(method, version)
            assert mapped.model is scratch.model
            assert set(mapped.curves) <= {"map"}
            assert mapped.seconds >= scratch.seconds
            assert mapped.peak_rss_mb >= scratch.peak_rss_mb > 0
            assert len(mapped.backward) == version
    others = {
        id(comparison.fit(name, 2).model)
        for name, method in METHODS.items()
        if method.model != "frozen"
    }
    assert len(others) == len(METHODS) - 1 - len(posthoc)


def test_a_frozen_model_has_no_alignment_error_and_a_model_built_onto_it_next_to_none(results):
    for slice_ in ("", *(f"/{name}" for name in SLICES_OF_ENTITIES)):
        errors = [
            values(results, method, f"alignment{slice_}", "alignment_error")
            for method in ("fix-m0", "backstay", "bc-aligner")
        ]
        assert set(errors[0].values()) == {0.0}
        assert max(errors[1].values()) < 1e-4
        assert max(errors[2].values()) > 1e-3


def test_every_older_version_is_reached_exactly_by_a_model_built_onto_them(results):
    found = {(m.source, m.target): m for m in results.maps if m.method == "backstay"}
    assert set(found) == {(1, 0), (2, 1), (2, 0)}
    for figures in found.values():
        assert figures.alignment_error < 1e-4
        assert figures.spectral_norm <= 10.01**figures.source


def test_consumers_see_no_difference_between_old_vectors_and_those_led_back_exactly(results):
    for task in TASKS:
        for metric, none in (("roc_auc", None), ("negative_flip_rate", 0.0), ("retention", 1.0)):
            ours, theirs = (
                values(results, method, task, metric) for method in ("backstay", "fix-m0")
            )
            assert ours == pytest.approx(theirs, abs=1e-4)
            if none is not None:
                assert set(theirs.values()) <= {none}
    assert row_of(results, "backstay").unintended_pct == pytest.approx(0, abs=0.01)


def test_what_a_method_keeps_of_the_version_before(comparison):
    for version, dim in enumerate(DIMS):
        tuned = comparison.fit("finetune", version)
        assert tuned.model.dim == DIMS[0]
        widened = comparison.fit("joint-identity", version)
        assert widened.model.dim == dim
        for step, maps in enumerate(tuned.backward):
            np.testing.assert_array_equal(maps.matrix, np.eye(DIMS[0]))
            cut = np.eye(DIMS[version - step - 1], DIMS[version - step])
            np.testing.assert_array_equal(widened.backward[step].matrix, cut)


def test_map_figures_exist_for_methods_that_fit_maps(results):
    without = {"fix-m0", "no-bc"}
    assert Counter(part.method for part in results.maps) == dict.fromkeys(
        METHODS.keys() - without, 3
    )


# Pairs


def test_methods_with_the_same_vectors_do_not_differ(results):
    """Models from scratch are the same for all maps that are fitted afterwards."""
    scratch = {name for name, row in METHODS.items() if row.posthoc} | {"no-bc"}
    assert len({part.recall for part in results.replicates if part.method in scratch}) == 1
    found = [
        pair
        for pair in pairs(results)
        if pair.figure == "intended_pct" and {pair.first, pair.second} <= scratch
    ]
    assert len(found) == 15
    assert {(pair.difference, pair.interval) for pair in found} == {(0.0, (0.0, 0.0))}
    assert not any(pair.significant for pair in found)


def test_methods_with_different_vectors_differ_significantly(results):
    (pair,) = (
        pair
        for pair in pairs(results)
        if (pair.first, pair.second, pair.figure) == ("fix-m0", "finetune", "intended_pct")
    )
    assert pair.significant
    assert pair.difference < 0


# What is asked for


def test_a_baseline_that_is_not_asked_for_leaves_its_percentages_out(data, shared):
    plan = replace(small_plan(), methods=("posthoc-ridge",))
    recorder = Recorder()
    results = compare(data, plan, runner=recorder, shared=shared)
    (row,) = results.summary
    assert row.intended_recall50 is not None
    assert row.unintended_auc is not None
    assert (row.intended_pct, row.unintended_pct, row.total_pct) == (None, None, None)
    assert "fit version 2 by no-bc" in recorder.labels  # whose models it maps
    assert "judge version 2 by no-bc" not in recorder.labels


def test_comparisons_with_the_same_shared_inputs_are_the_same(data, results, few):
    prepared = prepare_shared_inputs(data, few, Recorder())
    recorder = Recorder()
    again = compare(data, few, runner=recorder, shared=prepared)
    assert not any(label.startswith(("fit version 0", "train")) for label in recorder.labels)
    for method in FEW:
        ours, theirs = (
            [record for record in each.records if record.method == method]
            for each in (again, results)
        )
        assert ours == theirs


def test_each_cell_is_logged(data, shared, caplog):
    plan = replace(small_plan(), methods=("fix-m0",))
    with caplog.at_level(logging.INFO, "backstay.compare"):
        compare(data, plan, shared=shared)
    assert "fit version 1 by fix-m0 …" in caplog.messages
    assert "1 of 5 done: fit version 1 by fix-m0" in caplog.messages
    assert "5 of 5 done: judge version 2 by fix-m0" in caplog.messages


def test_a_plan_for_another_timeline_is_refused(data):
    plan = replace(small_plan(), dims=(8, 12), layers=(2, 2), slices=(0.5, 0.6, 0.7))
    with pytest.raises(UsageError, match="2 versions planned, 3 steps found"):
        compare(data, plan, about={})


# Failures


def without_seconds(row):
    return replace(row, fit_seconds=None, peak_rss_mb=None)


def records_of(results, methods, *, without=()):
    return [r for r in results.records if r.method in methods and r.task not in without]


def test_a_fit_that_fails_costs_its_method_alone(data, shared, few, results, caplog):
    runner = Breaking("fit version 1 by posthoc-ridge")
    found = compare(data, few, runner=runner, shared=shared)
    named = {"method": "posthoc-ridge"}
    first, second = (f"{version} by posthoc-ridge" for version in (1, 2))
    assert found.failures == (
        Failure(cell=f"fit version {first}", message="ValueError: no luck", version=1, **named),
        Failure(
            cell=f"fit version {second}",
            message=f"it needs the result of: fit version {first}",
            version=2,
            **named,
        ),
        Failure(
            cell=f"judge version {first}",
            message=f"it needs the result of: fit version {first}",
            version=1,
            **named,
        ),
        Failure(
            cell=f"judge version {second}",
            message=f"it needs the result of: fit version {first}",
            version=2,
            **named,
        ),
    )
    assert "fit version 1 by posthoc-ridge failed: ValueError: no luck" in caplog.text
    row = row_of(found, "posthoc-ridge")
    assert (row.intended_pct, row.unintended_pct, row.total_pct) == (None, None, None)
    assert (row.intended_interval, row.unintended_interval) == (None, None)
    assert (row.fit_seconds, row.unintended_auc) == (None, None)
    assert row.intended_recall50 is not None  # of version 0
    others = ("fix-m0", "no-bc")
    assert records_of(found, others) == records_of(results, others)
    for method in others:
        ours, theirs = (without_seconds(row_of(each, method)) for each in (found, results))
        assert ours == theirs
    assert not any("posthoc-ridge" in (pair.first, pair.second) for pair in pairs(found))


def test_a_model_that_others_share_fails_for_all_of_them(data, shared, few):
    runner = Breaking("fit version 2 by no-bc")
    found = compare(data, few, runner=runner, shared=shared)
    assert {(failed.method, failed.version) for failed in found.failures} == {
        ("no-bc", 2),
        ("posthoc-ridge", 2),
    }
    assert found.failures[0].cell == "fit version 2 by no-bc"
    assert found.failures[0].message == "ValueError: no luck"
    # Version 1 is judged, and no percentage is made of it.
    assert (1, 42) in values(found, "posthoc-ridge", "recommendation", "recall@50")
    assert row_of(found, "posthoc-ridge").unintended_pct is None
    assert row_of(found, "fix-m0").unintended_pct == 0
    assert row_of(found, "fix-m0").intended_pct is None  # against a baseline of fewer versions


def test_a_judgement_that_fails_costs_its_version_alone(data, shared, few, results):
    runner = Breaking("judge version 1 by fix-m0", error=TrainingError("not finite"))
    found = compare(data, few, runner=runner, shared=shared)
    assert found.failures == (
        Failure(
            cell="judge version 1 by fix-m0",
            message="TrainingError: not finite",
            method="fix-m0",
            version=1,
        ),
    )
    others = ("no-bc", "posthoc-ridge")
    assert records_of(found, others) == records_of(results, others)
    assert [row.unintended_pct for row in found.summary] == [0, None, None]  # against fix-m0
    assert [row.intended_pct for row in found.summary] == [None, 0, 0]  # against no-bc


def test_consumers_that_fail_leave_their_task_out_for_all_alike(data, few, results):
    found = compare(data, few, runner=Breaking("train consumers of edge_rating"))
    assert found.failures == (
        Failure(cell="train consumers of edge_rating", message="ValueError: no luck"),
    )
    without = ("edge_rating",)
    assert records_of(found, FEW) == records_of(results, FEW, without=without)
    assert row_of(found, "fix-m0").unintended_pct == 0
    assert row_of(found, "no-bc").unintended_interval is not None


def test_without_version_0_there_is_nothing_to_compare(data, few):
    with pytest.raises(TrainingError, match=r"version 0 could not be fitted \(ValueError: no luck"):
        compare(data, few, runner=Breaking("fit version 0"))


@pytest.mark.parametrize("cell", ["fit version 0", "train consumers of item_rating_mean"])
def test_shared_inputs_that_lack_a_cell_are_refused(data, few, cell):
    with pytest.raises(TrainingError, match=f"{cell} failed: ValueError: no luck"):
        prepare_shared_inputs(data, few, Breaking(cell))


# Stopped and gone on with


def test_shared_inputs_come_from_a_store_the_second_time(data, few, tmp_path):
    store = CellStore(tmp_path)
    first = prepare_shared_inputs(data, few, InProcess(), store=store)
    again = prepare_shared_inputs(data, few, Breaking("fit version 0"), store=store)
    assert again.first.model.dim == first.first.model.dim
    assert again.consumers.keys() == first.consumers.keys()


class Counted(Recorder):
    """Counts the cells that run, and stops before one of them, like a killed process."""

    def __init__(self, stop=None):
        super().__init__()
        self.stop, self.ran = stop, []

    def run(self, cells, data, known):
        def counted(label):
            def count():
                if label == self.stop:
                    raise KeyboardInterrupt
                self.ran.append(label)

            return count

        changed = (Changed(cell, counted(cell.key.label)) for cell in cells)
        return super().run(changed, data, known)


def same(ours, theirs):
    """The same results, but for what fits took when they were made again."""
    assert ours.records == theirs.records
    assert ours.maps == theirs.maps
    assert ours.replicates == theirs.replicates
    assert ours.failures == theirs.failures
    assert list(map(without_seconds, ours.summary)) == list(map(without_seconds, theirs.summary))


def test_a_run_that_is_stopped_goes_on_where_it_was(data, results, tmp_path, caplog):
    plan = replace(small_plan(), methods=("fix-m0", "no-bc", "posthoc-ridge", "backstay"))
    store, first = CellStore(tmp_path / "cells"), Counted(stop="fit version 2 by backstay")
    with pytest.raises(KeyboardInterrupt):
        compare(data, plan, runner=first, store=store)
    assert len(first.ran) > 6
    second = Counted()
    with caplog.at_level(logging.INFO, "backstay.compare"):
        again = compare(data, plan, runner=second, store=store)
    assert f"{first.ran[0]}: reused from an earlier run" in caplog.messages
    assert not set(first.ran) & set(second.ran)
    third = Counted()
    whole = compare(data, plan, runner=third, store=store)
    assert third.ran == []
    assert whole == again
    for method in plan.methods:
        assert records_of(again, (method,)) == records_of(results, (method,))
    assert [part for part in results.maps if part.method in plan.methods] == list(again.maps)


def test_a_cell_that_failed_is_tried_again_with_what_needs_it(data, shared, few, tmp_path):
    store = CellStore(tmp_path)
    runner = Breaking("fit version 2 by posthoc-ridge")
    compare(data, few, runner=runner, shared=shared, store=store)
    runner = Counted()
    found = compare(data, few, runner=runner, shared=shared, store=store)
    assert runner.ran == ["fit version 2 by posthoc-ridge", "judge version 2 by posthoc-ridge"]
    assert found.failures == ()
    same(found, compare(data, few, shared=shared))
