"""`backstay compare` in one process: its files, and which calls may be repeated in its folder."""

import logging
from contextlib import contextmanager

import pytest

from backstay.engines import compare as module
from backstay.engines.compare import compare
from backstay.errors import InputError, TrainingError
from backstay.evaluation.comparison.results import Results
from tests.support.small_comparison import Breaking

SMALL = {
    "methods": ("fix-m0", "no-bc"),
    "dims": (8, 12),
    "epochs": 1,
    "seeds": 1,
    "widths": (4,),
    "dropouts": (0.0,),
    "consumer_epochs": 1,
}


@pytest.fixture(autouse=True)
def reports(monkeypatch):
    """Results that a report was asked for; drawing takes longer than all the rest."""
    asked = []

    def write_report(analysis, out):
        asked.append(analysis.results)
        return out / "report.html"

    monkeypatch.setattr(module, "write_report", write_report)
    return asked


@pytest.fixture
def run(dataset, tmp_path):
    """Run a comparison in the same folder each time."""

    def compare_here(**changes):
        return compare(dataset, out=tmp_path / "run", workers=1, **(SMALL | changes)).results

    return compare_here


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def broken(monkeypatch):
    """Runs in which cells raise an error, by their labels."""

    @contextmanager
    def broken_runs(*labels, **options):
        with monkeypatch.context() as patched:
            patched.setattr(module, "InProcess", lambda: Breaking(*labels, **options))
            yield

    return broken_runs


def test_results_and_report_are_the_same(run, out, reports):
    results = run()
    assert Results.load(out / "results.json").to_json() == results.to_json()
    assert reports == [results]
    assert results.failures == ()
    assert results.dataset["counts"]["interactions"] == 3_000
    assert {path.name for path in out.iterdir()} == {"plan.json", "cells", "results.json"}


def test_a_finished_run_is_left_alone(run, out):
    run()
    before = (out / "results.json").read_text()
    for methods in (("fix-m0", "no-bc"), ("fix-m0",), ("no-bc", "finetune")):
        with pytest.raises(InputError, match="holds a finished run"):
            run(methods=methods)
    assert (out / "results.json").read_text() == before


def test_more_methods_may_be_asked_for(run, out, caplog):
    first = run()
    with caplog.at_level(logging.INFO, "backstay.compare"):
        second = run(methods=("fix-m0", "finetune", "no-bc"))
    again = [message for message in caplog.messages if "done: " in message]
    assert [message.split("done: ")[1] for message in again] == [
        "fit version 1 by finetune",
        "judge version 0 by finetune",
        "judge version 1 by finetune",
    ]
    assert [row.method for row in second.summary] == ["fix-m0", "finetune", "no-bc"]
    assert [r for r in second.records if r.method != "finetune"] == list(first.records)
    assert (second.summary[0], second.summary[2]) == first.summary
    assert Results.load(out / "results.json").to_json() == second.to_json()


def test_a_run_with_failures_may_be_repeated(run, out, broken, caplog):
    with broken("fit version 1 by no-bc"):
        results = run()
    assert len(results.failures) == 2
    assert "2 cells failed, the first: fit version 1 by no-bc (ValueError: no luck)" in caplog.text
    assert Results.load(out / "results.json").failures == results.failures
    with pytest.raises(InputError, match="holds a finished run"):
        run(methods=("fix-m0",))  # would throw away what is there of the others
    assert run().failures == Results.load(out / "results.json").failures == ()


def test_another_plan_is_refused_in_any_folder_of_a_run(run, out, broken):
    with broken("fit version 1 by no-bc"):
        run()
    before = (out / "results.json").read_text()
    for change in (
        {"epochs": 2},
        {"dims": (8, 16)},
        {"methods": (*SMALL["methods"], "finetune"), "seed": 1},
    ):
        with pytest.raises(InputError, match="holds another run"):
            run(**change)
    assert (out / "results.json").read_text() == before


def test_a_stopped_run_leaves_no_results_and_goes_on(run, out, broken, caplog):
    with (
        broken("judge version 0 by no-bc", error=KeyboardInterrupt()),
        pytest.raises(KeyboardInterrupt),
    ):
        run()
    assert not (out / "results.json").exists()
    with caplog.at_level(logging.INFO, "backstay.compare"):
        results = run()
    kept = [
        message for message in caplog.messages if message.endswith("reused from an earlier run")
    ]
    assert len(kept) == 4 + 2 + 2  # version 0 and three tasks, both fits, fix-m0's judgements
    assert results.failures == ()


def test_a_run_without_version_0_leaves_no_results_and_goes_on(run, out, broken):
    with broken("fit version 0"), pytest.raises(TrainingError, match="version 0"):
        run()
    assert not (out / "results.json").exists()
    assert run().failures == ()


def test_somebody_elses_file_is_never_overwritten(run, out):
    out.mkdir()
    (out / "results.json").write_text("mine")
    with pytest.raises(InputError, match="holds a finished run"):
        run()
    assert (out / "results.json").read_text() == "mine"


def test_a_comparison_without_a_baseline_says_so_before_it_fits(run, caplog):
    with caplog.at_level(logging.INFO, "backstay"):
        run(methods=("fix-m0", "bc-aligner"))
    first, *_ = [record.getMessage() for record in caplog.records]
    assert "can't recommend a method without no-bc" in first
    assert "--methods" in first
