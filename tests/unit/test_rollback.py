"""The loop of a bad update by the command line: refused by a contract, forced, rolled back."""

import json
import subprocess
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backstay.registry.store import Registry
from backstay.serving.client import Client
from tests.support.processes import run_python, start_python

SPACE = "market"
SHORT = ("--epochs", 4, "--evaluate-every", 2, "--workers", 0)
REFRESH, MARGIN = 1, 60  # seconds


class Shell:
    """`backstay` commands on one registry, each in a process of its own."""

    def __init__(self, registry, dataset):
        self.registry, self.dataset = registry, dataset

    def __call__(self, verb, *words):
        at = ("--registry", self.registry, "--space", SPACE)
        return run_python("-m", "backstay", *verb.split(), *at, "--json", *words)

    def update(self, *words):
        return self("update", "--dataset", self.dataset, *SHORT, *words)


@pytest.fixture
def shell(tmp_path, dataset):
    """Versions 0 and 1, of which 1 is `prod`, and a consumer that reads version 0."""
    shell = Shell(tmp_path / "registry", dataset)
    for until, dim in ((0.5, 8), (0.6, 10)):
        done = shell.update("--until", until, "--dim", dim, "--promote", "prod")
        assert done.returncode == 0, done.stderr
    ids, _ = Registry(shell.registry).space(SPACE).table(0, "item").read()
    pq.write_table(pa.table({"id": ids}), tmp_path / "ids.parquet")
    contract = ("--reads", 0, "--contact", "ads@example.com", "--metric", "cosine")
    labelled = ("--table", tmp_path / "ids.parquet", "--entity", "item", "--tolerance", 0.5)
    done = shell("consumers add", "ads", *contract, *labelled)
    assert done.returncode == 0, done.stderr
    return shell


@pytest.fixture
def url(shell, tmp_path):
    """A running server on the registry."""
    process = start_python(
        *("-m", "tests.support.server", shell.registry, tmp_path / "cache", REFRESH),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate(timeout=MARGIN)


def test_a_bad_update_is_not_served_and_a_forced_one_is_rolled_back(shell, url):
    space = Registry(shell.registry).space(SPACE)
    ids, newest = space.table(1, "item").read()
    ids = ids.to_pylist()[:5]
    oracle = {0: [space.chain(1, 0).matrix @ row for row in newest[:5]], 1: newest[:5]}

    def served(version=None):
        with Client(url) as client:
            return client.lookup(SPACE, "item", ids, version=version).values

    def serves(version, vectors):
        """Poll, for the refresh and a margin, until the default version has these vectors."""
        until = time.monotonic() + REFRESH + MARGIN
        while (found := served()).shape != np.shape(vectors) or not np.allclose(
            found, vectors, rtol=1e-4, atol=1e-5
        ):
            assert time.monotonic() < until, f"version {version} is not served"
            time.sleep(0.1)

    serves(1, oracle[1])
    bad = ("--until", 0.7, "--dim", 12, "--method", "no-bc")
    refused = shell.update(*bad)
    assert refused.returncode == 1
    assert "ads (version 0)" in refused.stderr
    assert space.versions() == [0, 1]

    published = shell.update(*bad, "--force", "--promote", "prod")
    assert published.returncode == 0, published.stderr
    assert json.loads(published.stdout)["promoted"] is None
    assert space.versions() == [0, 1, 2]
    time.sleep(3 * REFRESH)  # gives the service the time to do it wrong
    np.testing.assert_allclose(served(), oracle[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(served(0), oracle[0], rtol=1e-3, atol=1e-4)

    assert shell("promote", 2).returncode == 1
    assert shell("promote", 2, "--force").returncode == 0
    serves(2, space.table(2, "item").read()[1][:5])
    done = shell("rollback", "--why", "ads broke")
    assert done.returncode == 0, done.stderr
    serves(1, oracle[1])
    np.testing.assert_allclose(served(0), oracle[0], rtol=1e-3, atol=1e-4)
