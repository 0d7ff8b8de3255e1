"""Fitting and judging one version by one method, compared with slow loops."""

import copy
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest

from backstay.evaluation.comparison import judging
from backstay.evaluation.comparison.cells import FitCell, JudgeCell, TrainCell
from backstay.evaluation.comparison.judging import judge_version
from backstay.evaluation.comparison.keys import FitKey, JudgeKey, TrainKey
from backstay.evaluation.comparison.results import Failure
from backstay.evaluation.comparison.runner import inputs_of, run_cell
from backstay.evaluation.metrics.bootstrap import REPLICATES, defined_interval
from backstay.evaluation.metrics.ranking import RankingTask
from backstay.evaluation.metrics.roc_auc import roc_auc
from tests.support.recall import recall_at_k
from tests.support.small_comparison import (
    small_comparison,
    small_data,
    small_plan,
    tasks_of,
)

NEWEST = 2
METHOD = "posthoc-low-rank"  # whose maps are one for users and another for items


def examples_of(data, version):
    return {t.name: t.judge[version] for t in tasks_of(data) if version in t.judge}


@pytest.fixture(scope="module")
def data():
    return small_data()


@pytest.fixture(scope="module")
def comparison():
    return small_comparison()


@pytest.fixture(scope="module")
def judge(data, comparison):
    """Judge a line of versions, as any method."""

    def judged(line, method=METHOD):
        return judge_version(
            data,
            line,
            method=method,
            seed=42,
            examples=examples_of(data, line[-1].version),
            consumers=comparison.consumers(data),
        )

    return judged


@pytest.fixture(scope="module")
def line(comparison):
    return comparison.line(METHOD, NEWEST)


@pytest.fixture(scope="module")
def judgement(judge, line):
    return judge(line)


@pytest.fixture(scope="module")
def step(data):
    return data.steps[NEWEST]


def value_of(judgement, task, metric, seed=42):
    (value,) = (
        r.value
        for r in judgement.records
        if (r.task, r.metric, r.seed, r.version) == (task, metric, seed, judgement.version)
    )
    return value


def own(data, fitted, step):
    return fitted.model.embed(step, data.attributes)


def slow_back(data, line, step, target):
    """z̃_target of the newest version: every map in turn, a row at a time, in float64."""
    rows = []
    for number, z in enumerate(own(data, line[-1], step).tolist()):
        found = z
        for maps in line[-1].backward[: NEWEST - target]:  # B_2, then B_1
            map_ = maps.user if number < step.n_users else maps.item
            found = [
                sum(m * x for m, x in zip(row, found, strict=True)) + offset
                for row, offset in zip(map_.matrix.tolist(), map_.offset.tolist(), strict=True)
            ]
        rows.append(found)
    return np.array(rows, np.float32)


def lengths(found, expected):
    gaps = found.astype(np.float64) - expected
    return [sum(x * x for x in row) ** 0.5 for row in gaps.tolist()]


@pytest.fixture(scope="module")
def led_back(data, line, step):
    return slow_back(data, line, step, 0)


@pytest.fixture(scope="module")
def reference(data, line, step):
    return own(data, line[0], step)


# Judging


def test_users_and_items_are_mapped_by_maps_of_their_own(line):
    newest = line[-1]
    assert newest.backward[0].user is not newest.backward[0].item
    z = np.ones((3, 16), np.float32)
    maps = newest.maps_to(0)
    both = maps.apply(z, n_users=2)
    np.testing.assert_array_equal(both[0], both[1])
    assert np.abs(both[1] - both[2]).max() > 1e-3
    assert (newest.maps_to(1).user.matrix.shape, maps.user.matrix.shape) == ((12, 16), (8, 16))


def test_recall_is_that_of_the_versions_own_vectors(judgement, data, line, step):
    z = own(data, line[-1], step)
    expected = recall_at_k(z[: step.n_users], z[step.n_users :], step)
    assert value_of(judgement, "recommendation", "recall@50") == expected.mean
    assert judgement.recall.shape == (REPLICATES,)
    assert judgement.recall.mean() == pytest.approx(expected.mean, abs=0.05)


def test_retrieval_is_the_recall_of_compatible_users_among_old_items(
    judgement, led_back, reference, step
):
    expected = recall_at_k(led_back[: step.n_users], reference[step.n_users :], step).mean
    assert value_of(judgement, "retrieval", "recall@50") == pytest.approx(expected, abs=1e-3)


def test_the_alignment_error_is_the_mean_distance_and_that_of_each_slice(
    judgement, led_back, reference, step, data
):
    distances = lengths(led_back, reference)
    users, items = range(step.n_users), range(step.n_users, len(distances))
    edges = [step.train.items.tolist().count(item) for item in range(step.n_known_items)]
    ranked = sorted(range(step.n_known_items), key=lambda item: -edges[item])  # ties: the older
    tenth, half = -(-len(ranked) // 10), len(ranked) // 2
    first = data.steps[0]
    slices = {
        "alignment": [*users, *items],
        "alignment/users": users,
        "alignment/items": items,
        "alignment/head_items": [step.n_users + item for item in ranked[:tenth]],
        "alignment/tail_items": [step.n_users + item for item in ranked[-half:]],
        "alignment/new": [*users[first.n_known_users :], *items[first.n_known_items :]],
    }
    for name, rows in slices.items():
        expected = fmean(distances[row] for row in rows)
        assert value_of(judgement, name, "alignment_error") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_consumers_are_fed_compatible_vectors_and_compared_with_old_ones(
    judgement, led_back, reference, step, seed
):
    """Decisions one at a time, and the rows that consumers are fed gathered by hand."""
    every = small_comparison().consumers(small_data())
    for task in tasks_of(small_data()):
        consumers, examples = every[task.name], task.judge[NEWEST]
        logits = []
        for z in (reference, led_back):
            columns = []
            if examples.users is not None:
                columns.append(z[: step.n_users][examples.users])
            if examples.items is not None:
                columns.append(z[step.n_users :][examples.items])
            logits.append(consumers[seed].scores(np.concatenate(columns, axis=1)))
        was, now = (roc_auc(scores, examples.labels) for scores in logits)
        assert value_of(judgement, task.name, "roc_auc", seed) == pytest.approx(now, abs=1e-3)
        decisions = [(scores > 0).tolist() for scores in logits]
        flips = {"negative_flip_rate": 0, "positive_flip_rate": 0}
        for before, after, label in zip(*decisions, examples.labels.tolist(), strict=True):
            if before != after:
                flips["negative_flip_rate" if before == label else "positive_flip_rate"] += 1
        for metric, count in flips.items():
            found = value_of(judgement, task.name, metric, seed)
            assert found == pytest.approx(count / len(examples), abs=1.5 / len(examples))
        if was > 0.5:
            kept = (now - 0.5) / (was - 0.5)
            assert value_of(judgement, task.name, "retention", seed) == pytest.approx(
                kept, abs=0.05
            )


def test_a_consumer_no_better_than_chance_has_no_retention(judgement, judge, line, monkeypatch):
    assert any(record.metric == "retention" for record in judgement.records)
    monkeypatch.setattr(judging, "retention", lambda *_: None)
    metrics = {record.metric for record in judge(line).records}
    assert "retention" not in metrics
    assert "negative_flip_rate" in metrics


def test_every_map_and_chain_is_judged_by_the_vectors_of_the_version_it_leads_to(
    judgement, data, line, step
):
    assert [(part.source, part.target) for part in judgement.maps] == [(2, 0), (2, 1)]
    task, users = RankingTask.of(step), step.n_users
    for part in judgement.maps:
        found, expected = (
            slow_back(data, line, step, part.target),
            own(data, line[part.target], step),
        )
        assert part.alignment_error == pytest.approx(fmean(lengths(found, expected)), rel=1e-4)
        assert part.recall == pytest.approx(
            task.recall(found[:users], expected[users:]).mean, abs=1e-3
        )
        assert part.old_recall == task.recall(expected[:users], expected[users:]).mean
        values = np.linalg.svd(line[-1].maps_to(part.target).user.matrix, compute_uv=False)
        assert part.spectral_norm == pytest.approx(values[0], rel=1e-5)
        assert part.condition_number == pytest.approx(values[0] / values[-1], rel=1e-3)


def test_version_0_has_no_maps(judge, line):
    first = judge(line[:1])
    assert first.maps == ()
    assert first.aucs == {}
    assert {record.task for record in first.records if not record.task.startswith("alignment")} == {
        "recommendation"
    }
    assert value_of(first, "alignment", "alignment_error") == 0


def test_without_a_map_old_consumers_get_the_first_dimensions(judge, comparison, data, step):
    found = judge(comparison.line("no-bc", NEWEST), "no-bc")
    z, reference = (own(data, comparison.fit("no-bc", version), step) for version in (NEWEST, 0))
    expected = fmean(lengths(z[:, :8], reference))
    assert value_of(found, "alignment", "alignment_error") == pytest.approx(expected, rel=1e-6)
    assert found.maps == ()


def test_a_frozen_model_has_no_maps_to_judge_wherever_its_copies_were(judge, comparison):
    line = comparison.line("fix-m0", NEWEST)
    assert judge(line, "fix-m0").maps == judge(copy.deepcopy(line), "fix-m0").maps == ()


def test_a_task_without_consumers_is_left_out(line, judgement, comparison, data):
    lost = tasks_of(data)[2].name
    versions = tuple(FitKey(version, METHOD if version else None) for version in range(NEWEST + 1))
    cell = JudgeCell(
        key=JudgeKey(NEWEST, METHOD),
        seed=42,
        versions=versions,
        examples=examples_of(data, NEWEST),
    )
    given = dict(zip(versions, line, strict=True))
    given |= {TrainKey(task): trained for task, trained in comparison.consumers(data).items()}
    given[TrainKey(lost)] = Failure(cell=TrainKey(lost).label, message="no luck")
    found = run_cell(cell, data, *(given[key] for key in inputs_of(cell)))
    assert set(found.aucs) == set(judgement.aucs) - {lost}
    assert found.records == tuple(r for r in judgement.records if r.task != lost)


# Pairs


def test_the_same_vectors_give_the_same_replicates_whoever_they_are_of(judgement, judge, line):
    """To the bit: differences between methods are differences between vectors."""
    again = judge(copy.deepcopy(line), "bc-aligner")
    np.testing.assert_array_equal(again.recall, judgement.recall)
    assert list(again.aucs) == list(judgement.aucs)
    for task, replicates in judgement.aucs.items():
        np.testing.assert_array_equal(again.aucs[task], replicates)
    assert [replace(r, method=METHOD) for r in again.records] == list(judgement.records)


def test_each_figure_of_users_or_items_has_the_defined_interval_its_replicates(judgement):
    for record in judgement.records:
        resampled = record.metric in {"recall@50", "roc_auc"}
        assert (record.interval is not None) == resampled
        if resampled:
            low, high = record.interval
            assert low < record.value < high
    recall = next(r for r in judgement.records if r.task == "recommendation")
    assert recall.interval == defined_interval(judgement.recall)


# Fitting


def test_a_cell_fits_what_its_method_asks_for(data, comparison):
    """The same as within the comparison, and from there on back to version 0."""
    plan = small_plan().version("bc-aligner", NEWEST)
    older = comparison.line("bc-aligner", NEWEST - 1)
    keys = tuple(FitKey(version, "bc-aligner") for version in range(NEWEST))
    cell = FitCell(key=FitKey(NEWEST, "bc-aligner"), plan=plan, older=keys)
    again, expected = run_cell(cell, data, *older), comparison.fit("bc-aligner", 2)
    for name, weights in expected.model.weights.items():
        np.testing.assert_array_equal(again.model.weights[name], weights)
    assert len(again.backward) == NEWEST
    assert again.backward[1] is older[1].backward[0]
    assert again.seconds > 0
    assert again.peak_rss_mb > 50  # torch alone


def test_a_closed_form_follows_maps_that_are_not_linear(data, comparison):
    """A closed form needs no older maps, so that those may be of any kind."""
    cell = FitCell(
        key=FitKey(NEWEST, METHOD),
        plan=small_plan().version(METHOD, NEWEST),
        older=tuple(FitKey(version, METHOD) for version in range(NEWEST)),
        fitted=FitKey(NEWEST, "no-bc"),
    )
    older, model = comparison.line(METHOD, NEWEST - 1), comparison.fit("no-bc", NEWEST)
    again = run_cell(cell, data, *older, model)
    expected = comparison.fit(METHOD, NEWEST)
    np.testing.assert_array_equal(again.backward[0].user.matrix, expected.backward[0].user.matrix)
    assert again.curves == {}


def test_consumers_are_trained_on_version_0_alone(data, comparison):
    task = tasks_of(data)[0]
    cell = TrainCell(task=task, config=small_plan().consumers)
    consumers = run_cell(cell, data, comparison.fit(None, 0))
    assert [consumer.seed for consumer in consumers] == [0, 1]
    for ours, theirs in zip(consumers, comparison.consumers(data)[task.name], strict=True):
        assert ours.validation_auc == theirs.validation_auc
    early = data.steps[task.early_stop_step]
    z = own(data, comparison.fit(None, 0), early)
    found = roc_auc(consumers[0].scores(z[task.early_stop.users]), task.early_stop.labels)
    assert found == pytest.approx(consumers[0].validation_auc, abs=1e-9)
