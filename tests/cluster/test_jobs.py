"""What people submit with `ray job submit`, on a cluster of its own."""

import json

import numpy as np
import pyarrow as pa
import pytest

from backstay.registry.store import Registry
from backstay.registry.stored import open_table
from backstay.registry.table_writer import write_table_parts
from backstay.registry.verify import verify
from tests.support.builders import fill

ROWS = 17_000  # × 1024 dimensions: enough for Ray Data to be used


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    space = fill(Registry(folder / "registry").space("movies"), 8, 16, 1024)
    values = np.random.default_rng(0).normal(size=(ROWS, 1024)).astype(np.float32)
    write_table_parts(
        folder / "table",
        [(pa.array(range(ROWS)), values)],
        space="movies",
        entity="item",
        version=2,
    )
    return folder, values @ space.chain(2, 0).matrix.T


def test_a_submitted_job_converts_on_the_cluster(job_cluster, world):
    folder, expected = world
    output = folder / "output"
    job = job_cluster.submit(
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


def test_submitted_jobs_fit_on_the_clusters_workers_and_publish(job_cluster, dataset, tmp_path):
    command = [
        *("jobs/update_version.py", "--registry", str(tmp_path / "registry"), "--space", "market"),
        *("--dataset", str(dataset), "--method", "backstay", "--epochs", "5"),
    ]
    first = job_cluster.submit("python", *command, "--dim", "8", "--until", "0.5")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "fitting on Ray Train with 1 worker" in first.stdout
    second = job_cluster.submit(*command, "--dim", "12", "--until", "0.6", "--workers", "2")
    assert second.returncode == 0, second.stdout + second.stderr
    space = Registry(tmp_path / "registry").space("market")
    assert space.versions() == [0, 1]
    assert verify(space, 1) == []
    assert space.chain(1, 0).matrix.shape == (8, 12)
    assert space.metrics(1)["alignment_error"]["to_version_0"] < 1e-4


SMALL = (
    *("--dims=8,12,16", "--epochs=2", "--seeds=1", "--widths=8", "--consumer-epochs=2"),
    *("--workers=2", "--json"),
)


def test_a_submitted_search_and_its_result_by_id(job_cluster, dataset, tmp_path):
    job = job_cluster.submit(
        *("python", "jobs/tune_weight.py", str(dataset), "--out", str(tmp_path / "run")),
        *("--weights=1,16", *SMALL),
        options=("--submission-id", "tune"),
    )
    assert job.returncode == 0, job.stdout + job.stderr
    result = _document(job_cluster.job("logs", "tune").stdout)
    assert [trial["name"] for trial in result["trials"]] == ["λ = 1", "λ = 16"]
    assert (tmp_path / "run" / "best.yaml").exists()


def _document(log: str) -> dict:
    """The JSON document at the end of a job's log."""
    return json.loads(log[log.index("\n{\n") :])


def test_a_job_that_cannot_be_done_fails_in_one_line(job_cluster, tmp_path):
    job = job_cluster.submit(
        *("python", "jobs/update_version.py", "--registry", str(tmp_path), "--space", "market"),
        *("--dataset", str(tmp_path), "--until", "0.5"),
    )
    assert job.returncode == 1
    assert "is no dataset folder" in job.stdout
    assert "Traceback" not in job.stdout
