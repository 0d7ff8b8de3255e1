"""The conversion as a job on a cluster of its own."""

import numpy as np
import pyarrow as pa
import pytest

from backstay.registry.store import Registry
from backstay.registry.tables import open_table, write_table_parts

ROWS = 17_000  # × 1024 dimensions: enough for Ray Data to be used


@pytest.fixture(scope="module")
def world(tmp_path_factory, publish_versions):
    folder = tmp_path_factory.mktemp("world")
    publish_versions(folder / "registry", 8, 16, 1024)
    values = np.random.default_rng(0).normal(size=(ROWS, 1024)).astype(np.float32)
    write_table_parts(
        folder / "table",
        [(pa.array(range(ROWS)), values)],
        space="movies",
        entity="item",
        version=2,
    )
    chain = Registry(folder / "registry").space("movies").chain(2, 0)
    return folder, values @ chain.matrix.T


@pytest.mark.parametrize("interpreter", [("python",), ()], ids=["python", "short form"])
def test_a_submitted_job_converts_on_the_cluster(job_cluster, world, interpreter):
    folder, expected = world
    output = folder / f"output-{len(interpreter)}"
    job = job_cluster.submit(
        *interpreter,
        "jobs/convert_table.py",
        *("--registry", str(folder / "registry"), "--space", "movies", "--from", "2", "--to", "0"),
        *("--input", str(folder / "table"), "--output", str(output)),
    )
    assert job.returncode == 0, job.stdout + job.stderr
    assert "over Ray Data" in job.stdout
    table = open_table(output, space="movies", version=0)
    ids, values = table.read()
    assert ids.to_pylist() == list(range(ROWS))
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-3)
