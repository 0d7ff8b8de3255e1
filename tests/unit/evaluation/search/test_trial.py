"""One trial: the same figures as a comparison, on the windows that it may see, and resumable."""

from dataclasses import replace

import pytest

from backstay.errors import TrainingError
from backstay.evaluation.comparison import run as run_module
from backstay.evaluation.comparison.cell_store import CellStore
from backstay.evaluation.comparison.keys import FitKey
from backstay.evaluation.comparison.run import judge_methods, prepare_shared_inputs
from backstay.evaluation.comparison.runner import InProcess
from backstay.evaluation.search.settings import TrialSettings
from backstay.evaluation.search.trial import (
    BASELINES,
    as_results,
    beside,
    first_versions,
    run_trial,
)
from tests.support.small_comparison import small_data, small_plan

PROFILE = TrialSettings(weight=small_plan().fit.weight)


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    """The baselines' judgements of versions 1 and 2, and what the trials share."""
    store = CellStore(tmp_path_factory.mktemp("baselines"))
    plan = replace(small_plan(), methods=BASELINES)
    inputs = prepare_shared_inputs(small_data(), plan, InProcess(), store=store)
    judged = judge_methods(small_data(), plan, versions={1, 2}, shared=inputs, store=store)
    return judged.judgements, inputs


def trial(baselines, store, *, settings=PROFILE, data=None):
    return run_trial(
        data or small_data(),
        small_plan(),
        settings,
        method="bc-aligner",
        shared=baselines[1],
        store=CellStore(store),
    )


def test_a_trial_finds_what_a_comparison_finds(baselines, tmp_path):
    made = list(trial(baselines, tmp_path))
    plan = replace(small_plan(), methods=("bc-aligner",))
    whole = judge_methods(small_data(), plan, versions={1, 2}, shared=baselines[1])
    expected = whole.judgements["bc-aligner"]
    assert [part.version for part in made] == [1, 2]
    assert [part.maps for part in made] == [part.maps for part in expected]
    # At version 1 a trial does not see yet which tasks later windows have.
    assert made[1].records == expected[1].records
    assert set(made[0].records) <= set(expected[0].records)


def test_a_trial_reads_no_later_window(baselines, tmp_path):
    seen = first_versions(small_data(), 1)
    assert len(seen.steps) == 2
    (judgement,) = trial(baselines, tmp_path, data=seen)
    assert judgement.version == 1


def test_a_trial_goes_on_after_its_last_finished_cell(baselines, tmp_path, monkeypatch):
    begun = trial(baselines, tmp_path)
    first = next(begun)
    begun.close()  # as when its process is killed
    ran = []

    def recorded(cells, data, known, runner, store):
        ran.extend(cell.key for cell in cells if store.find(cell.key) is None)
        return run(cells, data, known, runner, store)

    run = run_module._run
    monkeypatch.setattr(run_module, "_run", recorded)
    again = list(trial(baselines, tmp_path))
    assert again[0].records == first.records
    assert FitKey(1, "bc-aligner") not in ran
    assert FitKey(2, "bc-aligner") in ran


def test_the_costs_so_far_cover_the_versions_so_far(baselines, tmp_path):
    begun = trial(baselines, tmp_path)
    made = [next(begun)]
    found = beside(baselines[0], made, small_plan(), name="trial")
    assert {record.version for record in found.records} == {1}
    row = found.summary[-1]
    assert row.method == "trial"
    assert row.total_pct == pytest.approx(row.intended_pct + row.unintended_pct)
    assert row.total_interval


def test_trials_are_paired_with_the_baselines(baselines, tmp_path):
    made = list(trial(baselines, tmp_path))
    results = as_results({**baselines[0], "λ = 1": made, "the same": made}, small_plan())
    one, other = results.replicates[-2:]
    assert (one.recall, one.auc) == (other.recall, other.auc)
    assert len({len(part.recall) for part in results.replicates}) == 1


def test_a_trial_in_which_a_fit_fails_fails(baselines, tmp_path, monkeypatch):
    """Else its settings would be some without costs."""
    monkeypatch.setattr(
        "backstay.evaluation.comparison.cells.fit_version",
        lambda *_, **__: (_ for _ in ()).throw(ValueError("no luck")),
    )
    with pytest.raises(TrainingError, match=r"fit version 1 by bc-aligner failed: .*no luck"):
        list(trial(baselines, tmp_path))
