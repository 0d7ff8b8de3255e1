"""Hosts that vanish in the middle of a command; the results equal those of an undisturbed run.

All tests look at one cluster of three hosts; see tests/support/cut_hosts.py.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from backstay.evaluation.comparison.results import Results
from backstay.registry.store import Registry
from backstay.registry.table_commit import COMMIT
from backstay.registry.table_writer import write_table_parts
from backstay.registry.verify import verify
from tests.support.builders import fill, marketplace
from tests.support.namespaces import check_scan, part, run_apart

pytestmark = pytest.mark.faults

BLOCKS, ROWS, DIM = 8, 16_500, 256  # five parts of 16 MiB or more


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """What all hosts can read and write."""
    folder = tmp_path_factory.mktemp("disk")
    marketplace(folder, interactions=6_000)
    fill(Registry(folder / "registry").space("movies"), 8, 16, DIM)
    values = np.random.default_rng(0).normal(size=(BLOCKS, ROWS, DIM)).astype(np.float32)
    blocks = [(pa.array(range(n * ROWS, (n + 1) * ROWS)), block) for n, block in enumerate(values)]
    write_table_parts(folder / "table", blocks, space="movies", entity="item", version=2)
    return folder


@pytest.fixture(scope="module")
def seen(disk) -> dict[str, Any]:
    return run_apart("tests.support.cut_hosts", disk, timeout=550)


def test_no_port_of_a_worker_answers_without_the_token(seen, capsys):
    check_scan(part(seen, "scan", capsys), "raylet")


def test_a_conversion_writes_the_same_bytes(seen, disk, capsys):
    part(seen, "start", capsys)
    part(seen, "convert", capsys)
    found, expected = (disk / f"table-{name}" for name in ("cut", "undisturbed"))
    names = sorted(path.name for path in expected.iterdir())
    assert len(names) > 4
    assert sorted(path.name for path in found.iterdir()) == names
    for name in set(names) - {COMMIT}:
        assert (found / name).read_bytes() == (expected / name).read_bytes()
    assert list(disk.glob(".table-*")) == []


def test_an_update_publishes_the_same_version(seen, disk, capsys):
    found = part(seen, "update", capsys)
    assert len(found["resumed"]) == 1
    cut, undisturbed = (
        Registry(disk / f"updated-{name}").space("market") for name in ("cut", "undisturbed")
    )
    assert cut.versions() == undisturbed.versions() == [0]
    assert verify(cut, 0) == []
    # Two workers add their gradients in another order than one process does.
    for name, value in cut.model(0).weights.items():
        np.testing.assert_allclose(value, undisturbed.model(0).weights[name], rtol=1e-3, atol=2e-3)


def check_comparison(disk, name):
    found, expected = (
        Results.load(disk / f"run-{name}" / "results.json") for name in (name, "undisturbed")
    )
    assert found.failures == expected.failures == ()
    keys, figures = (
        [
            [(r.method, r.version, r.task, r.seed) for r in each.records]
            for each in (found, expected)
        ],
        [[r.value for r in each.records] for each in (found, expected)],
    )
    assert keys[0] == keys[1]
    np.testing.assert_allclose(*figures, atol=0.02)  # sums of floats differ with the threads


def test_a_comparison_finds_the_same(seen, disk, capsys):
    part(seen, "compare", capsys)
    check_comparison(disk, "cut")


def test_a_lost_head_ends_the_command_and_no_finished_work_is_lost(seen, disk, capsys):
    found = part(seen, "head", capsys)
    assert found["ended"] != 0
    assert found["reused"] == found["cells"] > 0
    check_comparison(disk, "head")
