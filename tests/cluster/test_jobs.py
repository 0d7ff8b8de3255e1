"""What people submit with `ray job submit`, on a cluster of its own.

Long form: `python jobs/x.py`. Short form: `jobs/x.py`. Every job succeeds in both and fails once.
"""

import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from backstay.evaluation.comparison.results import Results
from backstay.registry.store import Registry
from backstay.registry.stored import open_table
from backstay.registry.table_writer import write_table_parts
from backstay.registry.verify import verify
from tests.support.builders import fill
from tests.support.running_service import eventually

ROWS = 17_000  # × 1024 dimensions: enough for Ray Data to be used
MIB = 2**20
SMALL = (
    *("--dims=8,12", "--epochs=2", "--seeds=1", "--widths=8", "--consumer-epochs=2"),
    *("--workers=2", "--json"),
)


@dataclass(frozen=True)
class Ended:
    """A job that has ended."""

    code: int  # the exit code of `ray job submit`
    status: str
    driver: int | None  # the exit code of the job itself
    log: str  # what `ray job logs` prints

    def document(self) -> dict:
        """The JSON document at the end of the log."""
        return json.loads(self.log[self.log.index("\n{\n") :])


@pytest.fixture
def submit(job_cluster, say) -> Callable[..., Ended]:
    """Submits a job, waits for its end, and prints how it ended."""

    def run(*entrypoint: object) -> Ended:
        job_id, words = secrets.token_hex(4), [str(word) for word in entrypoint]
        name = " ".join(words[: 2 if words[0] == "python" else 1])
        say(f"asked: {name}, as job {job_id}")
        done = job_cluster.submit(*words, options=("--submission-id", job_id))
        info = job_cluster.info(job_id)
        log = job_cluster.job("logs", job_id).stdout
        ended = Ended(done.returncode, str(info["status"]), info["driver_exit_code"], log)
        say(f"{name}: {ended.status}, exit code {ended.driver}; submit exits with {ended.code}")
        return ended

    return run


def succeeded(job: Ended) -> Ended:
    assert (job.code, job.status, job.driver) == (0, "SUCCEEDED", 0), job.log
    return job


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


def check_working_directory(cluster, say):
    """The copy on the cluster holds the code, and little else."""
    (folder,) = cluster.folder.glob("**/session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    say(f"working directory: {len(files)} files, {size / MIB:.1f} MiB")
    assert {path.relative_to(folder).parts[0] for path in files} == {"jobs", "platform", "serve"}
    assert size < 20 * MIB


def test_conversions(job_cluster, submit, say, world):
    folder, expected = world
    output = folder / "output"
    command = [
        *("jobs/convert_table.py", "--registry", folder / "registry", "--space", "movies"),
        *("--from", 2, "--to", 0, "--input", folder / "table", "--output", output, "--json"),
    ]
    first = succeeded(submit(*command))
    assert "over Ray Data" in first.log
    table = open_table(output, space="movies", version=0)
    ids, values = table.read()
    assert ids.to_pylist() == list(range(ROWS))
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-3)
    again = succeeded(submit("python", *command))
    assert "is converted already" in again.log
    assert again.document() == first.document()
    check_working_directory(job_cluster, say)


def test_updates_are_fitted_on_the_cluster_s_workers(submit, dataset, tmp_path):
    command = [
        *("jobs/update_version.py", "--registry", tmp_path / "registry", "--space", "market"),
        *("--dataset", dataset, "--method", "backstay", "--epochs", 5),
    ]
    first = succeeded(submit("python", *command, "--dim", 8, "--until", 0.5))
    assert "fitting on Ray Train with 1 worker" in first.log
    succeeded(submit(*command, "--dim", 12, "--until", 0.6, "--workers", 2))
    space = Registry(tmp_path / "registry").space("market")
    assert space.versions() == [0, 1]
    assert verify(space, 1) == []
    assert space.chain(1, 0).matrix.shape == (8, 12)
    assert space.metrics(1)["alignment_error"]["to_version_0"] < 1e-4


def test_comparisons_of_which_the_second_adds_a_method(submit, dataset, tmp_path):
    out = tmp_path / "run"
    command = ["jobs/compare_methods.py", dataset, f"--out={out}", *SMALL]
    first = succeeded(submit("python", *command, "--methods=fix-m0,no-bc"))
    assert [row["method"] for row in first.document()["summary"]] == ["fix-m0", "no-bc"]
    second = succeeded(submit(*command, "--methods=fix-m0,no-bc,posthoc-ridge"))
    assert "reused from an earlier run" in second.log
    results = Results.load(out / "results.json")
    assert [row.method for row in results.summary] == ["fix-m0", "no-bc", "posthoc-ridge"]
    assert results.failures == ()


def test_a_search_is_stopped_and_goes_on(job_cluster, submit, say, dataset, tmp_path):
    command = ["jobs/tune_weight.py", str(dataset), f"--out={tmp_path / 'run'}", *SMALL]
    command += ["--dims=8,12,16", "--weights=1,16"]
    options = ("--no-wait", "--submission-id", "stopped")
    asked = job_cluster.submit("python", *command, options=options)
    assert asked.returncode == 0, asked.stderr
    say("asked: python jobs/tune_weight.py with --no-wait")
    eventually(lambda: list((tmp_path / "run").glob("cells*/**/cell.json")))
    assert job_cluster.job("stop", "stopped").returncode == 0
    say("ray job stop")
    assert job_cluster.info("stopped")["status"] == "STOPPED"
    assert not (tmp_path / "run" / "best.yaml").exists()
    result = succeeded(submit(*command)).document()
    assert [trial["name"] for trial in result["trials"]] == ["λ = 1", "λ = 16"]
    assert (tmp_path / "run" / "best.yaml").exists()


def test_jobs_with_wrong_input_fail_and_name_it(submit, world, dataset, tmp_path):
    folder, _ = world
    wrong = {
        "jobs/update_version.py": (
            *("--registry", tmp_path / "none", "--space", "market", "--dataset", tmp_path),
            *("--until", 0.5),
        ),
        "jobs/convert_table.py": (
            *("--registry", folder / "registry", "--space", "movies", "--from", 2, "--to", 0),
            *("--input", tmp_path / "missing", "--output", tmp_path / "output"),
        ),
        "jobs/compare_methods.py": (dataset, "--out", tmp_path / "run", "--methods", "magic"),
        "jobs/tune_weight.py": (tmp_path, "--out", tmp_path / "search"),
    }
    expected = {
        "jobs/update_version.py": (1, "is no dataset folder: expected dataset.json"),
        "jobs/convert_table.py": (1, "missing"),
        "jobs/compare_methods.py": (2, "unknown method 'magic'; expected one of"),
        "jobs/tune_weight.py": (1, "is no dataset folder: expected dataset.json"),
    }
    with ThreadPoolExecutor(len(wrong)) as pool:
        ended = dict(zip(wrong, pool.map(lambda job: submit(job, *wrong[job]), wrong), strict=True))
    for name, job in ended.items():
        code, line = expected[name]
        assert (job.code, job.status, job.driver) == (1, "FAILED", code), job.log
        (error,) = [line for line in job.log.splitlines() if line.startswith("Error: ")]
        assert line in error
        assert "Traceback" not in job.log
    assert list(tmp_path.iterdir()) == []
