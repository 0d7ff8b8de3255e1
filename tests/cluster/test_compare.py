"""Comparison over Ray: the figures of one process, whoever is killed meanwhile."""

import contextlib
import json
import os
import signal
from dataclasses import replace

import pytest

from backstay.engines.compare import compare
from backstay.errors import InputError
from backstay.evaluation.comparison.results import Results
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
