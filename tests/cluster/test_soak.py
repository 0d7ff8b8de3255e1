"""Two minutes of benchmarks/soak.py: right answers through one fault after the other."""

import json

import pytest

from tests.support.processes import ROOT, run_python

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("soak") / "report.json"
    done = run_python(
        ROOT / "benchmarks" / "soak.py",
        *("--seconds", 120, "--rows", 2000, "--dim", 64, "--load", 0.3, "--json", path),
        timeout=580,
    )
    assert path.exists(), done.stderr
    print(done.stdout)  # noqa: T201 - pytest shows it if a test fails
    return json.loads(path.read_text())


def test_every_answer_has_the_right_vectors_from_one_table_in_force(report):
    assert report["requests"] > 1000
    assert report["client_calls"] > 10
    assert (report["wrong"], report["stale"]) == (0, 0), report["examples"]


def test_the_service_recovers_from_every_fault(report):
    assert len(report["rows"]) >= 9  # the tenth needs the right to mount a disk
    assert [row["fault"] for row in report["rows"] if row["recovered"] is None] == []


def test_retries_make_up_for_what_a_fault_costs(report):
    assert report["failed_share"] <= 0.001, report["examples"]
    assert report["client_failed"] == 0, report["examples"]
