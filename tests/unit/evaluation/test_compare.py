"""The comparison's cells in this process: what is fitted once, and what its figures mean."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from backstay.datasets.dataset import Dataset
from backstay.datasets.marketplace import generate
from backstay.datasets.marketplace_config import MarketplaceConfig
from backstay.datasets.timeline import steps
from backstay.errors import UsageError
from backstay.evaluation.compare import Data, Here, compare_methods
from backstay.evaluation.plan import ComparePlan
from backstay.evaluation.ranking import recall_at_k

METHODS = ("fix-m0", "no-bc", "posthoc-linear-single", "bc-aligner")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("market") / "dataset"
    generate(MarketplaceConfig(interactions=8_000), out)
    opened = Dataset.open(out)
    interactions = opened.interactions()
    timeline = steps(interactions, (0.5, 0.6, 0.7, 0.8))
    return Data(tuple(timeline), opened.attributes(interactions.item_ids))


@pytest.fixture(scope="module")
def plan():
    plan = ComparePlan.of("fast", methods=METHODS, dims=(16, 20, 24), epochs=3, seeds=2)
    return replace(plan, map_epochs=5, consumers=replace(plan.consumers, widths=(16,), epochs=5))


class Recorder(Here):
    """Keeps every cell it runs."""

    def __init__(self):
        self.cells = {}

    def submit(self, label, function, *args, **options):
        self.cells[label] = super().submit(label, function, *args, **options)
        return self.cells[label]


@pytest.fixture(scope="module")
def comparison(data, plan):
    recorder = Recorder()
    return compare_methods(data, plan, about={"name": "m"}, runner=recorder), recorder.cells


def values(results, method, task, metric):
    return {
        (r.version, r.seed): r.value
        for r in results.records
        if (r.method, r.task, r.metric) == (method, task, metric)
    }


def test_every_method_version_consumer_and_seed_has_its_record(comparison):
    results, _ = comparison
    for method in METHODS:
        recalls = values(results, method, "recommendation", "recall@50")
        assert set(recalls) == {(version, 42) for version in range(3)}
        aucs = values(results, method, "edge_rating", "roc_auc")
        assert set(aucs) == {(version, seed) for version in (1, 2) for seed in (0, 1)}
    assert [row.method for row in results.summary] == list(METHODS)


def test_version_0_is_one_model_for_all_methods_and_so_are_models_from_scratch(comparison):
    results, cells = comparison
    assert sum(label.startswith("fit version 0") for label in cells) == 1
    recalls = [values(results, m, "recommendation", "recall@50") for m in METHODS]
    assert len({recall[0, 42] for recall in recalls}) == 1
    assert recalls[1] == recalls[2]  # no-bc and the post-hoc map have the same models
    weights = [
        cells[f"fit version 2 by {method}"].model.weights
        for method in ("no-bc", "posthoc-linear-single")
    ]
    for name in weights[0]:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])


def test_the_figures_are_those_of_the_cells_vectors_by_slow_loops(data, comparison):
    results, cells = comparison
    cell = cells["fit version 2 by bc-aligner"]
    step = data.steps[2]
    z = cell.model.embed(step, data.attributes)
    expected = recall_at_k(z[: step.n_users], z[step.n_users :], step).mean
    assert values(results, "bc-aligner", "recommendation", "recall@50")[2, 42] == expected
    newest, older = cell.matrices
    reference = cells["fit version 0"].model.embed(step, data.attributes)
    distances = []
    for row, target in zip(z, reference, strict=True):
        led_back = older.astype(np.float64) @ (newest.astype(np.float64) @ row)
        distances.append(np.sqrt(((led_back - target) ** 2).sum()))
    error = values(results, "bc-aligner", "alignment", "alignment_error")[2, 42]
    assert error == pytest.approx(np.mean(distances), rel=1e-4)


def test_no_bc_gives_consumers_the_first_dimensions_and_fix_m0_its_own(data, comparison):
    _, cells = comparison
    step = data.steps[1]
    raw = cells["fit version 1 by no-bc"]
    np.testing.assert_array_equal(raw.compatible, raw.model.embed(step, data.attributes)[:, :16])
    frozen = cells["fit version 1 by fix-m0"]
    assert frozen.alignment_error == pytest.approx(0.0, abs=1e-5)


def test_a_baseline_that_is_not_asked_for_leaves_its_percentages_out(data, plan):
    results = compare_methods(data, replace(plan, methods=("bc-aligner",)), about={})
    (row,) = results.summary
    assert row.intended_recall50 is not None
    assert row.intended_pct is None


def test_each_cell_is_told_when_it_is_done(data, plan, caplog):
    with caplog.at_level(logging.INFO, "backstay.compare"):
        compare_methods(data, replace(plan, methods=("fix-m0",)), about={})
    assert "fit version 0: done" in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ("magic",)}, "magic"),
        ({"methods": ("no-bc", "no-bc")}, "different"),
        ({"dims": (8, 8), "slices": (0.5, 0.6)}, "slice"),
        ({"slices": (0.6, 0.5, 0.7)}, "rise"),
        ({"epochs": -1}, "epochs"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        ComparePlan.of("fast", **changes)


def test_the_paper_profile_is_the_published_protocol():
    plan = ComparePlan.of("paper")
    assert plan.dims == (256, 320, 384, 448, 512)
    assert plan.layers == (2, 2, 3, 3, 3)
    assert (plan.fit.epochs, plan.fit.evaluate_every, plan.fit.weight) == (500, 10, 16.0)
    assert plan.consumers.seeds == 10


def test_one_flag_sets_the_versions():
    plan = ComparePlan.of("fast", dims=(8, 9, 10), layers=(1,), epochs=2)
    assert (plan.slices, plan.layers) == ((0.5, 0.6, 0.7, 0.8), (1, 1, 1))
    assert ComparePlan.of("paper", slices=(0.2, 0.4, 0.6)).dims == (256, 320)
