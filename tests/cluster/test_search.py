"""The search over Ray Tune: real trials, killed and resumed, with failures as rows."""

import contextlib
import json
import os
import signal

import pytest
import yaml

from backstay.engines.search.config import SearchConfig
from backstay.engines.search.run import search
from backstay.engines.update_config import UpdateConfig
from backstay.errors import InputError
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.comparison.results import Results
from backstay.evaluation.search.trial import BASELINES
from tests.support.processes import Job

PLAN = ComparePlan.of("fast", dims=(8, 12, 16), epochs=2, seeds=1, widths=(8,), consumer_epochs=3)
OPTIONS = (
    *("--dims=8,12,16", "--epochs=2", "--seeds=1", "--widths=8", "--consumer-epochs=3"),
    *("--trials=4", "--search=weight,rate,epochs,new-dims", "--workers=2"),
)


@pytest.mark.usefixtures("ray_cluster")
def test_weights_are_tried_beside_the_usual_ones_and_judged_on_a_later_window(dataset, tmp_path):
    out = tmp_path / "search"
    config = SearchConfig(plan=PLAN, weights=(0.5, 1.0, 1e300))
    found = search(dataset, out=out, config=config)
    *finished, failed = found.trials
    names = ["λ = 0.5", "λ = 1", "λ = 16"]
    assert [trial.name for trial in finished] == names
    assert [trial.state for trial in finished] == ["finished"] * 3
    assert [trial.reference for trial in finished] == [False, True, True]
    assert (failed.name, failed.state, failed.costs) == ("λ = 1e+300", "failed", None)
    assert "expected a finite loss, found inf" in failed.reason
    assert (found.selected_on, found.judged_on) == ((1,), (2,))
    assert found.chosen in names
    results = Results.load(out / "results.json")
    assert [row.method for row in results.summary] == [*BASELINES, *names]
    assert {record.version for record in results.records} == {1}
    assert {record.version for record in found.judgement.records} == {2}
    assert {found.chosen, "λ = 1", "λ = 16"} <= {row.method for row in found.judgement.summary}
    assert {pair.second for pair in found.against} == {"λ = 1", "λ = 16"} - {found.chosen}
    best = yaml.safe_load((out / "best.yaml").read_text())
    assert best["compare"]["weight"] == best["update"]["weight"] == found.best.settings.weight
    UpdateConfig(registry="r", space="s", dataset=dataset, until=0.5, **best["update"])
    page = (out / "report.html").read_text()
    assert all(name in page for name in names)
    with pytest.raises(InputError, match="finished"):
        search(dataset, out=out, config=config)


def _kill(job: Job, name: str) -> None:
    (pid, *_) = job.wait_until(lambda: job.workers(name))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _check_ranges(trial: dict) -> None:
    settings = trial["settings"]
    assert 0.05 <= settings["weight"] <= 64
    if not trial["reference"]:
        assert 0.25 <= settings["rate"] <= 4
        assert 1 <= settings["epochs"] <= 4
        assert settings["new_dims"] in {None, 0, 16, 32, 64}


@pytest.mark.faults
def test_a_killed_worker_and_a_killed_driver_lose_no_finished_trial(
    dataset, tmp_path, short_folder
):
    out, logs = tmp_path / "search", [tmp_path / f"{life}.log" for life in ("first", "second")]

    def run(log):
        return Job("tune", str(dataset), f"--out={out}", *OPTIONS, log=log, folder=short_folder)

    def finished():
        return {
            line.partition("done: ")[2].partition(":")[0]
            for log in logs
            if log.exists()
            for line in log.read_text().splitlines()
            if " trial " in line and "done: " in line
        }

    with run(logs[0]) as job:
        _kill(job, "ray::ImplicitFunc")  # the process of a trial
        job.wait_until(finished)
    before = finished()
    assert 1 <= len(before) <= 4
    cells = {path: path.read_bytes() for path in out.glob("cells-of-trials/*/*/cell.json")}
    with run(logs[1]) as job:
        job.finish()
    assert "trial 4 of 4 done" in logs[1].read_text()  # those of the first life count
    document = json.loads((out / "search.json").read_text())
    for trial in document["trials"]:
        _check_ranges(trial)
    ended = {trial["name"]: trial["state"] for trial in document["trials"]}
    assert len(ended) == 6
    assert before <= set(ended)
    assert all(state in ("finished", "stopped") for state in ended.values())
    assert all(path.read_bytes() == content for path, content in cells.items())  # nothing anew
    print(f"before the kill: {sorted(before)}; at the end: {sorted(ended)}")  # noqa: T201
