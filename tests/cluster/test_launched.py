"""A cluster that cluster.yaml's own commands start: who answers without the token, and scaling.

It runs once for all tests, in namespaces of its own; see tests/support/launched_cluster.py.
"""

import json
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from backstay.registry.store import Registry
from backstay.registry.stored import open_table
from backstay.registry.table_writer import write_table_parts
from tests.support.builders import fill
from tests.support.processes import ROOT, environment

pytestmark = pytest.mark.faults

NAMESPACES = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
HARMLESS = {
    ("/", 200),  # the dashboard's page, without data
    ("/api/authentication_mode", 200),  # that it needs a token
    ("/timezone", 200),
    ("/api/gcs_healthz", 200),
    ("/api/local_raylet_healthz", 200),
    ("grpc.health.v1.Health/Check", "OK"),
}
PARTS, ROWS, DIM = 8, 20_000, 64


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    fill(Registry(folder / "registry").space("movies"), 8, 16, DIM)
    values = np.random.default_rng(0).normal(size=(PARTS, ROWS, DIM)).astype(np.float32)
    parts = [(pa.array(range(n * ROWS, (n + 1) * ROWS)), part) for n, part in enumerate(values)]
    write_table_parts(folder / "table", parts, space="movies", entity="item", version=2)
    return folder


@pytest.fixture(scope="module")
def launched(world, dataset) -> dict[str, Any]:
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no network namespaces")
    with tempfile.TemporaryDirectory(prefix="bs-", ignore_cleanup_errors=True) as home:
        done = subprocess.run(
            [
                *(*NAMESPACES, sys.executable, "-m", "tests.support.launched_cluster"),
                *(home, str(world / "registry"), str(world / "table"), str(dataset)),
            ],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def part(launched, name: str, capsys) -> dict[str, Any]:
    """What a part of the run reports; prints it, whether the test fails or not."""
    assert "failed" not in launched, launched["failed"]
    assert f"{name} failed" not in launched, launched[f"{name} failed"]
    found = launched[name]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(f"    {line}" for line in found["lines"]) + "\n")
    return found


def test_no_port_answers_without_the_token(launched, capsys):
    found = part(launched, "scan", capsys)
    processes = {process for _, _, process, _ in found["asked"]}
    assert {"gcs_server", "raylet"} <= processes
    assert all(requests for *_, requests in found["asked"])
    told = [entry for entry in found["answered"] if (entry[3], entry[4]) not in HARMLESS]
    assert told == []


def test_a_conversion_gets_its_machines_and_gives_them_back(launched, world, capsys):
    found = part(launched, "convert", capsys)
    assert found["most"] >= 1
    assert found["left"] == 0
    assert open_table(world / "table-0", space="movies", version=0).rows == PARTS * ROWS


def test_an_elastic_fit_gets_its_workers_and_gives_them_back(launched, world, capsys):
    found = part(launched, "fit", capsys)
    assert 1 <= found["most"] <= 2
    assert found["left"] == 0
    assert Registry(world / "registry").space("market").versions() == [0]
