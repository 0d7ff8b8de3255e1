"""Converting a table by tasks of Ray Data."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from backstay.engines.conversion import plan as convert_plan
from backstay.errors import InputError
from backstay.registry.store import Registry
from backstay.registry.stored import open_table
from backstay.registry.table_commit import COMMIT, read_commit
from backstay.storage.files import open_files
from tests.support import deltas
from tests.support.builders import fill
from tests.support.conversions import (
    DIMS,
    bucket,
    config,
    cut_small,
    run,
    slowly,
    vectors,
    write_input,
    write_plain,
)
from tests.support.killed_conversions import kill_ten_times

PART = 250 * 48  # bytes


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    root = tmp_path_factory.mktemp("registry")
    fill(Registry(root).space("movies"), *DIMS)
    return root


@pytest.fixture
def small_parts(monkeypatch):
    """Cut parts and row groups so small that little tables have many."""
    cut_small(monkeypatch)


@pytest.mark.usefixtures("ray_cluster", "small_parts")
@pytest.mark.parametrize("row_group_size", [100, 2000])
def test_ray_data_writes_the_bytes_that_this_process_writes(registry, tmp_path, row_group_size):
    path = write_plain(
        tmp_path / "in.parquet",
        row_group_size=row_group_size,
        id=pa.array(range(2000)),
        embedding=vectors(2000),
    )
    local = run(registry, path, tmp_path / "local", engine="local", targets=(0, 1))
    over_ray = run(registry, path, tmp_path / "ray", engine="ray", workers=2, targets=(0, 1))
    assert (local.engine, over_ray.engine) == ("local", "ray")
    for folder in ("v0", "v1"):
        names = sorted(path.name for path in (tmp_path / "local" / folder).iterdir())
        assert len(names) == local.parts + 1 > 4
        assert sorted(path.name for path in (tmp_path / "ray" / folder).iterdir()) == names
        for name in set(names) - {COMMIT}:
            found = (tmp_path / "ray" / folder / name).read_bytes()
            assert found == (tmp_path / "local" / folder / name).read_bytes()


@pytest.mark.usefixtures("ray_cluster")
def test_ray_data_converts_a_delta_as_this_process_does(tmp_path, monkeypatch):
    cut_small(monkeypatch, part=90 * 4 * deltas.DIM, group=30 * 4 * deltas.DIM)
    space = Registry(tmp_path / "registry").space("movies")
    newer = deltas.long_delta(space)
    commits = {}
    for engine in ("local", "ray"):
        options = {"source": 1, "targets": (0, 1), "engine": engine, "workers": 2}
        report = run(tmp_path / "registry", None, tmp_path / engine, **options)
        assert (report.engine, report.written) == (engine, len(newer[0]))
        found = deltas.read(open_table(tmp_path / engine / "v1"))
        assert dict(found) == dict(deltas.rows_of(*newer))
        commits[engine] = [
            read_commit(open_files(tmp_path / engine / v)).parts for v in ("v0", "v1")
        ]
    assert commits["local"] == commits["ray"]


@pytest.mark.usefixtures("ray_cluster", "small_parts")
def test_ray_data_refuses_and_sets_aside_what_this_process_does(registry, tmp_path):
    values = vectors(900)
    values[[450, 451, 777], 3] = np.nan
    path = write_plain(tmp_path / "in.parquet", id=pa.array(range(900)), embedding=values)
    messages = []
    for engine in ("local", "ray"):
        with pytest.raises(InputError) as caught:
            run(registry, path, tmp_path / "out", engine=engine)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("3 of 900 rows can't be converted; the first is ")
    assert "row group 4, row 50 (id 450): a vector with a NaN" in messages[0]
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]
    commits = []
    for engine in ("local", "ray"):
        report = run(registry, path, tmp_path / engine, engine=engine, on_error="quarantine")
        assert (report.written, report.set_aside) == (897, 3)
        commits.append(read_commit(open_files(tmp_path / engine)).parts)
    assert commits[0] == commits[1]


@pytest.mark.usefixtures("ray_cluster")
def test_a_table_without_rows_stays_one(registry, tmp_path):
    write_input(tmp_path / "in", vectors(0), ids=pa.array([], pa.string()))
    report = run(registry, tmp_path / "in", tmp_path / "out", engine="ray")
    assert (report.rows, report.parts) == (0, 1)
    table = open_table(tmp_path / "out")
    assert (table.rows, table.dim, table.version) == (0, 3, 0)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("store", ["local", "s3"])
def test_ten_kills_change_nothing(registry, tmp_path, store, request, monkeypatch):
    """The driver is killed; its tasks may still write when the next one begins."""
    cut_small(monkeypatch, part=PART, group=PART // 4)
    rows = 8_000
    write_input(tmp_path / "in", vectors(rows), ids=pa.array(np.arange(rows)[::-1]), part_rows=1000)
    variables = {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # that Ray listens on the loopback only
    }
    output = str(tmp_path / "out")
    if store == "s3":
        output, more = bucket(request, monkeypatch)
        variables |= more
    options = {"engine": "ray", "workers": 2, "targets": (0, 1)}
    parts = run(registry, tmp_path / "in", tmp_path / "undisturbed", **options).parts
    assert parts >= rows // 250
    wanted = config(registry, tmp_path / "in", output, **options)
    resumed = kill_ten_times(wanted, part=PART, parts=parts, **variables)
    assert 0 < resumed <= parts
    for folder in ("v0", "v1"):
        expected = open_table(tmp_path / "undisturbed" / folder).read()
        found = open_table(f"{output}/{folder}").read()
        assert found[0].equals(expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.usefixtures("ray_cluster")
def test_a_part_whose_worker_is_killed_is_done_again(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_plan, "PART_BYTES", (1 << 20, 1 << 20))
    values = vectors(400_000)
    write_input(tmp_path / "in", values, part_rows=100_000)
    killed = []

    def kill():
        """Kill the worker that has a part half-written."""
        while not killed and not (tmp_path / "out").exists():
            for open_file in tmp_path.glob(".out.*/content/.tmp-*"):
                pid = writer_of(open_file)
                if pid is None:
                    continue
                os.kill(pid, signal.SIGKILL)
                until(lambda pid=pid: not Path(f"/proc/{pid}/exe").exists())
                if open_file.exists():  # it never got its name, so the part was not done
                    killed.append(pid)
                    return
            time.sleep(0.001)

    killer = threading.Thread(target=kill)
    killer.start()
    report = run(registry, tmp_path / "in", tmp_path / "out", engine="ray")
    killer.join()
    assert len(killed) == 1
    assert report.parts > 4
    ids, found = open_table(tmp_path / "out").read()
    assert ids.equals(pa.array(range(len(values))))
    some = slice(0, len(values), 1000)
    np.testing.assert_allclose(found[some], slowly(registry, values[some]), rtol=1e-4, atol=1e-4)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name[0] == "."] == []


def writer_of(path):
    """The process, not this one, that has a file open."""
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if handle.readlink() == path and (pid := int(handle.parts[2])) != os.getpid():
                return pid
        except OSError:
            continue
    return None


def until(condition, *, seconds=120):
    for _ in range(seconds * 1000):
        if condition():
            return
        time.sleep(0.001)
    pytest.fail(f"waited {seconds} s in vain")
