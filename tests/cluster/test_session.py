import json
import os
from pathlib import Path

import psutil
import pytest

from backstay.cluster import session
from backstay.errors import InputError
from tests.support.processes import ROOT, pids_of, run_python
from tests.support.sockets import exposed

PROBE = ROOT / "tests/support/session_probe.py"


def found(output):
    line = next(line for line in output.splitlines() if line.startswith("found "))
    return json.loads(line.removeprefix("found "))


def test_a_private_ray_keeps_to_itself_and_leaves_nothing(short_folder):
    given = {n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "PYTHONPATH"))}
    done = run_python(PROBE, env=given | {"RAY_TMPDIR": short_folder}, cwd="/")
    assert done.returncode == 0, done.stderr
    seen = found(done.stdout)
    assert seen["imported"] == str(Path(session.__file__).resolve().parents[1] / "__init__.py")
    assert seen["nodes"] == [["127.0.0.1", 1.0]]
    assert seen["exposed"] == []
    assert seen["still_open"]
    assert seen["closed"]
    assert not {"PYTHONPATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"} & set(seen["changed"])
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert list(Path(short_folder).iterdir()) == []
    assert pids_of(short_folder) == []


def test_a_job_joins_its_cluster_and_brings_its_code(job_cluster):
    job = job_cluster.submit("python", str(PROBE))
    assert job.returncode == 0, job.stdout + job.stderr
    seen = found(job.stdout)
    # The workers' copy of the working directory, which need not be where the driver's is.
    assert seen["imported"].startswith(str(job_cluster.folder))
    assert seen["imported"].endswith("/platform/backstay/__init__.py")
    assert seen["nodes"] == [["127.0.0.1", 2.0]]
    assert seen["exposed"] == []
    assert seen["closed"]
    assert job_cluster.pids(), "the cluster goes on"


@pytest.mark.usefixtures("ray_cluster")
def test_the_tests_own_ray_listens_on_the_loopback_only():
    children = psutil.Process().children(recursive=True)
    assert exposed([os.getpid(), *(child.pid for child in children)]) == []


@pytest.mark.parametrize(
    ("error", "kept"),
    [(InputError, False), (KeyboardInterrupt, False), (ZeroDivisionError, True)],
)
def test_logs_stay_where_something_unforeseen_failed(monkeypatch, tmp_path, error, kept):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "init", lambda **_: None)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    with pytest.raises(error), session.ray_session():
        raise error
    assert bool(list(tmp_path.iterdir())) is kept


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({}, {"env_vars": {"PYTHONPATH": "{root}"}}),
        ({"working_dir": "gcs://x.zip"}, {"env_vars": {"PYTHONPATH": "platform"}}),
        ({"env_vars": {"PYTHONPATH": "lib"}}, {}),
    ],
)
def test_workers_get_the_path_of_the_code(monkeypatch, job, expected):
    root = Path(session.__file__).resolve().parents[2]
    monkeypatch.chdir(root.parent)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": job}))
    assert session.runtime_env() == json.loads(json.dumps(expected).replace("{root}", str(root)))
