"""Comparison and search over Ray: the figures of one process, whoever is killed meanwhile."""

import contextlib
import json
import os
import signal
from dataclasses import replace

import pytest

from backstay.engines import search as search_module
from backstay.engines.compare import compare
from backstay.engines.search import search
from backstay.errors import InputError, TrainingError, UsageError
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.comparison.results import Failure, Results
from tests.support.processes import Job

SMALL = {"dims": (8, 12), "epochs": 2, "seeds": 1, "widths": (8,), "consumer_epochs": 3}
OVER_RAY = ("fix-m0", "no-bc", "posthoc-ridge")
KILLED = ("no-bc", "backstay")


@pytest.fixture(scope="module")
def here(dataset, tmp_path_factory):
    """What one process finds."""
    out = tmp_path_factory.mktemp("here")
    methods = dict.fromkeys(OVER_RAY + KILLED)
    return compare(dataset, out=out / "run", workers=1, methods=tuple(methods), **SMALL).results


def check_same(found, expected):
    """The same cells gave the same; sums of floats may differ with the threads of a process."""
    methods = [row.method for row in found.summary]
    for name in ("records", "maps"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        theirs = [one for one in theirs if one.method in methods]
        figures = {"value", "interval", "spectral_norm", "condition_number", "alignment_error"}
        figures |= {"recall", "old_recall"}
        for one, other in zip(ours, theirs, strict=True):
            changes = dict.fromkeys(figures & vars(one).keys(), 0)
            assert replace(one, **changes) == replace(other, **changes)
        for one, other in zip(ours, theirs, strict=True):
            for figure in {"value", "alignment_error"} & vars(one).keys():
                assert getattr(one, figure) == pytest.approx(getattr(other, figure), abs=0.02), one
    assert [part.method for part in found.replicates] == methods
    assert found.failures == expected.failures == ()


@pytest.mark.usefixtures("ray_cluster")
def test_ray_tasks_and_one_process_find_the_same(dataset, here, tmp_path):
    out = tmp_path / "there"
    there = compare(dataset, out=out, methods=OVER_RAY, **SMALL).results
    check_same(there, here)
    document = json.loads((out / "results.json").read_text())
    assert set(document) == {
        *("dataset", "protocol", "summary", "records", "maps", "replicates", "failures")
    }
    assert document["dataset"]["counts"]["interactions"] == 3_000
    page = (out / "report.html").read_text()
    assert all(method in page for method in OVER_RAY)
    assert "http://" not in page.replace("http://www.w3.org", "")


def kill_one(job: Job) -> None:
    """Kill a worker in the middle of a cell; stopped first, so that it can't finish meanwhile."""
    while True:
        (pid, *_) = job.wait_until(lambda: job.workers("ray::run_cell"))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            if pid in job.workers("ray::run_cell"):
                os.kill(pid, signal.SIGKILL)
                return
            os.kill(pid, signal.SIGCONT)


def test_a_killed_worker_and_a_killed_driver_cost_nothing_but_time(
    dataset, here, tmp_path, short_folder
):
    out, logs = tmp_path / "run", [tmp_path / f"{life}.log" for life in ("first", "second")]
    options = [f"--methods={','.join(KILLED)}", "--workers=2"]
    for name, value in SMALL.items():
        values = value if isinstance(value, tuple) else [value]
        options.append(f"--{name.replace('_', '-')}={','.join(map(str, values))}")

    def run(log):
        return Job("compare", str(dataset), f"--out={out}", *options, log=log, folder=short_folder)

    def stored():
        return list(out.glob("cells/*/cell.json"))

    with run(logs[0]) as job:
        kill_one(job)
        assert stored() == []  # so that it was one of the first fits, which all else waits for
        job.wait_until(stored)
    before = len(stored())
    assert not (out / "results.json").exists()
    with run(logs[1]) as job:
        job.finish()
    first, second = (log.read_text() for log in logs)
    assert second.count("reused from an earlier run") == before
    assert " failed: " not in first + second  # the message of a failed cell
    check_same(Results.load(out / "results.json"), here)


def test_an_earlier_comparison_is_never_overwritten(dataset, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        compare(dataset, out=tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_search_tries_the_weights_and_draws_their_front(dataset, tmp_path, capsys):
    out = tmp_path / "search"
    report = search(dataset, out=out, weights=(16.0, 0.5), **SMALL)
    assert capsys.readouterr().out == ""  # nothing of Ray Tune's
    assert [trial.weight for trial in report.trials] == [0.5, 16.0]
    assert report.best_weight in (0.5, 16.0)
    assert any(trial.on_front for trial in report.trials)
    results = Results.load(out / "results.json")
    methods = ["fix-m0", "no-bc", "λ = 0.5", "λ = 16"]
    assert [row.method for row in results.summary] == methods
    assert [part.method for part in results.replicates] == methods
    assert {part.method for part in results.maps} == set(methods[2:])
    assert all(row.total_interval for row in results.summary)
    assert (out / "report.html").is_file()
    with pytest.raises(InputError, match="finished"):
        search(dataset, out=out, weights=(16.0,), **SMALL)


@pytest.mark.usefixtures("ray_cluster")
def test_the_searcher_chooses_weights_by_itself(dataset, tmp_path):
    report = search(dataset, out=tmp_path, trials=2, **(SMALL | {"epochs": 1}))
    assert len({trial.weight for trial in report.trials}) == 2
    least, most = search_module.RANGE
    assert all(least <= trial.weight <= most for trial in report.trials)


def test_invalid_options_of_a_search_are_refused(dataset, tmp_path):
    with pytest.raises(UsageError, match="joint"):
        search(dataset, out=tmp_path, method="no-bc")
    with pytest.raises(UsageError, match="not both"):
        search(dataset, out=tmp_path, weights=(1.0,), trials=3)
    assert not list(tmp_path.iterdir())


def test_a_trial_in_which_a_fit_fails_fails(here, monkeypatch):
    """Else its λ would be one without costs."""
    failed = replace(here, failures=(Failure(cell="fit version 1", message="no luck"),))
    monkeypatch.setattr(search_module, "compare_methods", lambda *_, **__: failed)
    with pytest.raises(TrainingError, match="fit version 1 failed: no luck"):
        search_module.run_trial(
            {"weight": 1.0},
            data=None,
            plan=ComparePlan.of("fast"),
            method="bc-aligner",
            shared=None,
            baseline=here,
        )
