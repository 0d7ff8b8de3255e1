"""A cluster that cluster.yaml's own commands start: who answers without the token, and scaling.

It runs once for all tests, in namespaces of its own; see tests/support/launched_cluster.py.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from backstay.registry.store import Registry
from backstay.registry.stored import open_table
from backstay.registry.table_writer import write_table_parts
from tests.support.builders import fill
from tests.support.namespaces import check_scan, part, run_apart

pytestmark = pytest.mark.faults

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
    module = "tests.support.launched_cluster"
    return run_apart(module, world / "registry", world / "table", dataset, timeout=500)


def test_no_port_answers_without_the_token(launched, capsys):
    found = part(launched, "scan", capsys)
    check_scan(found, "gcs_server", "raylet")


def test_a_conversion_gets_its_machines_and_gives_them_back(launched, world, capsys):
    found = part(launched, "convert", capsys)
    assert found["most"] >= 1
    assert found["left"] == 0
    assert open_table(world / "table-0", space="movies", version=0).rows == PARTS * ROWS


def test_an_elastic_fit_gets_its_workers_and_gives_them_back(launched, world, capsys):
    found = part(launched, "fit", capsys)
    assert 1 <= found["most"] <= 2
    assert found["left"] == 0
    assert Registry(f"{world / 'registry'}-of-the-page").space("movies").versions() == [0]


def test_look_up_replicas_follow_the_load(launched, capsys):
    found = part(launched, "serve", capsys)
    assert found["replicas"] == [0, 1, 2, 1]
    assert found["most"] == 2  # machines
    assert found["left"] == 0
    assert found["answers"] > 0
    assert found["failures"] == []


def test_the_page_leads_from_nothing_to_a_served_version(launched, capsys):
    found = part(launched, "page", capsys)
    (id_,), values = found["looked up"]
    assert id_ in found["answer"]
    assert all(f"{value:.4g}" in found["answer"] for value in values)
