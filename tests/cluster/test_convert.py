import contextlib
import dataclasses
import os
import signal
import subprocess
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.engines import convert as module
from backstay.engines.convert import convert
from backstay.errors import InputError, MapMismatchError, NotFoundError
from backstay.registry.store import Registry
from backstay.registry.table_writer import write_table_parts
from backstay.registry.tables import open_table
from backstay.storage.files import open_files
from backstay.storage.folders import new_folder
from tests.support.builders import fill, vector_column
from tests.support.processes import environment, kill_all, run_python, start_python

DIMS = (3, 5, 8)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    root = tmp_path_factory.mktemp("registry")
    fill(Registry(root).space("movies"), *DIMS)
    return root


@pytest.fixture
def small_parts(monkeypatch):
    """Cut parts and row groups so small that little tables have many."""
    monkeypatch.setattr(module, "PART_BYTES", 320 * 32)
    monkeypatch.setattr(module, "GROUP_BYTES", 64 * 32)


def vectors(rows, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def write_input(folder, values, *, ids=None, version=2, part_rows=None):
    ids = pa.array(range(len(values))) if ids is None else ids
    where = {"space": "movies", "entity": "item", "version": version}
    write_table_parts(folder, [(ids, values)], part_rows=part_rows, **where)
    return folder


def write_plain(path, **columns):
    path.parent.mkdir(exist_ok=True)
    if isinstance(columns.get("embedding"), np.ndarray):
        columns["embedding"] = vector_column(columns["embedding"])
    pq.write_table(pa.table(columns), path, row_group_size=100)
    return path


def run(registry, input_, output, *, source=2, target=0, **options):
    where = {"registry": str(registry), "space": "movies", "source": source, "target": target}
    return convert(**where, input=str(input_), output=str(output), **options)


def slowly(registry, values, *, source=2, target=0):
    """One row, one number at a time, one map after another, in Python's doubles."""
    space = Registry(registry).space("movies")
    rows = [[float(x) for x in row] for row in values]
    for version in range(source, target, -1):
        matrix = space.backward_map(version).matrix.tolist()
        rows = [
            [sum(m * x for m, x in zip(line, row, strict=True)) for line in matrix] for row in rows
        ]
    return np.array(rows, np.float64).reshape(len(values), DIMS[target])


@pytest.mark.parametrize(("source", "target"), [(2, 0), (2, 1), (1, 0), (2, 2)])
def test_vectors_are_those_of_a_slow_loop(registry, tmp_path, source, target):
    values = vectors(70, DIMS[source])
    write_input(tmp_path / "in", values, version=source, part_rows=30)
    report = run(registry, tmp_path / "in", tmp_path / "out", source=source, target=target)
    table = open_table(tmp_path / "out")
    assert (table.space, table.entity, table.version) == ("movies", "item", target)
    assert (report.rows, report.dims) == (70, (DIMS[source], DIMS[target]))
    ids, found = table.read()
    assert ids.to_pylist() == list(range(70))
    expected = slowly(registry, values, source=source, target=target)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(groups=st.lists(st.integers(0, 40), max_size=6), size=st.sampled_from([32, 640, 1 << 20]))
def test_order_does_not_depend_on_how_the_input_is_cut(registry, tmp_path_factory, groups, size):
    folder = tmp_path_factory.mktemp("cut")
    values = vectors(sum(groups))
    schema = pa.schema({"id": pa.int64(), "embedding": vector_column(vectors(1)).type})
    first = 0
    with pq.ParquetWriter(folder / "in.parquet", schema) as writer:
        for rows in groups:
            ids = pa.array(range(first, first + rows), pa.int64())
            block = [ids, vector_column(values[first : first + rows])]
            writer.write_table(pa.table(block, schema=schema))
            first += rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART_BYTES", size)
        patch.setattr(module, "GROUP_BYTES", size)
        report = run(registry, folder / "in.parquet", folder / "out")
    ids, found = open_table(folder / "out").read()
    assert report.rows == len(values)
    assert ids.to_pylist() == list(range(len(values)))
    np.testing.assert_allclose(found, slowly(registry, values), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("ray_cluster", "small_parts")
def test_ray_data_writes_the_bytes_that_this_process_writes(registry, tmp_path):
    write_input(tmp_path / "in", vectors(2000), part_rows=200)
    local = run(registry, tmp_path / "in", tmp_path / "local", engine="local")
    over_ray = run(registry, tmp_path / "in", tmp_path / "ray", engine="ray", workers=2)
    assert (local.engine, over_ray.engine) == ("local", "ray")
    names = sorted(path.name for path in (tmp_path / "local").iterdir())
    assert len(names) == local.parts > 3
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == names
    for name in names:
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()


@pytest.mark.usefixtures("ray_cluster", "small_parts")
def test_ray_data_refuses_what_this_process_refuses(registry, tmp_path):
    values = vectors(900)
    values[[450, 451, 777], 3] = np.nan
    path = write_plain(tmp_path / "in.parquet", id=pa.array(range(900)), embedding=values)
    messages = []
    for engine in ("local", "ray"):
        with pytest.raises(InputError) as caught:
            run(registry, path, tmp_path / "out", engine=engine)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("3 of 900 rows can't be converted; the first is row 450 with id")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_little_table_does_without_ray(registry, tmp_path):
    path = write_input(tmp_path / "in", vectors(5))
    script = f"""
        import sys
        from backstay.engines.convert import convert
        report = convert(registry={str(registry)!r}, space="movies", source=2, target=0,
                         input={str(path)!r}, output={str(tmp_path / "out")!r})
        assert report.engine == "local"
        assert "ray" not in sys.modules
    """
    run_python("-c", textwrap.dedent(script), check=True)


def test_extra_columns_pass_through_where_they_stand(registry, tmp_path):
    title = pa.array(["x", None, "z"]).dictionary_encode()
    tags = pa.array([["a"], [], None], pa.list_(pa.string()))
    path = write_plain(
        tmp_path / "in.parquet", title=title, id=["p", "q", "r"], tags=tags, embedding=vectors(3)
    )
    report = run(registry, path, tmp_path / "out")
    assert report.extra_columns == ("title", "tags")
    found = pq.read_table(tmp_path / "out")
    assert found.column_names == ["title", "id", "tags", "embedding"]
    assert found["title"].combine_chunks() == title
    assert found["tags"].combine_chunks() == tags
    assert found["id"].to_pylist() == ["p", "q", "r"]


def test_parts_are_plain_and_parts_of_the_output_match_the_registry(registry, tmp_path):
    write_input(tmp_path / "in", vectors(10))
    run(registry, tmp_path / "in", tmp_path / "out")
    file = pq.ParquetFile(tmp_path / "out" / "part-00000.parquet")
    assert file.schema_arrow.equals(open_table(tmp_path / "out").schema, check_metadata=True)
    column = file.metadata.row_group(0).column(1)
    assert column.compression == "UNCOMPRESSED"
    assert "RLE_DICTIONARY" not in column.encodings


@pytest.mark.parametrize("engine", ["local", "ray"])
@pytest.mark.usefixtures("ray_cluster")
def test_a_table_without_rows_stays_one(registry, tmp_path, engine):
    write_input(tmp_path / "in", vectors(0), ids=pa.array([], pa.string()))
    report = run(registry, tmp_path / "in", tmp_path / "out", engine=engine)
    assert (report.rows, report.parts) == (0, 1)
    table = open_table(tmp_path / "out")
    assert (table.rows, table.dim, table.version) == (0, 3, 0)


def test_an_object_store_gets_a_marker_last(registry, tmp_path):
    write_input(tmp_path / "in", vectors(10))
    run(registry, tmp_path / "in", "memory://store/out")
    files = open_files("memory://store/out")
    assert list(files.find("")) == ["_SUCCESS", "part-00000.parquet"]
    assert open_table("memory://store/out").rows == 10
    files.remove("")


def test_an_object_store_keeps_nothing_of_a_conversion_that_fails(registry, tmp_path):
    values = vectors(3)
    values[1, 1] = np.inf
    path = write_plain(tmp_path / "in.parquet", id=[1, 2, 3], embedding=values)
    with pytest.raises(InputError, match="1 of 3 rows"):
        run(registry, path, "memory://store/failed")
    assert open_files("memory://store/failed").find("") == {}


def test_refuses_an_output_that_holds_something(registry, tmp_path):
    write_input(tmp_path / "in", vectors(3))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="out is not empty"):
        run(registry, tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match=r"notes.txt is not empty"):
        run(registry, tmp_path / "in", tmp_path / "out" / "notes.txt")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_an_empty_folder_will_do_as_output(registry, tmp_path):
    write_input(tmp_path / "in", vectors(3))
    (tmp_path / "out").mkdir()
    assert run(registry, tmp_path / "in", tmp_path / "out").rows == 3


@pytest.mark.parametrize(
    ("rows", "first"),
    [
        ({"id": [1, None], "embedding": [[1.0] * 8] * 2}, "row 1 with no id"),
        ({"id": [1, 2], "embedding": [None, [1.0] * 8]}, "row 0 with id 1 and no vector"),
        ({"id": [1, 2], "embedding": [[1.0] * 8, [None] * 8]}, "row 1 with id 2 and a vector that"),
    ],
)
def test_refuses_nulls(registry, tmp_path, rows, first):
    type_ = pa.list_(pa.float32(), 8)
    path = write_plain(
        tmp_path / "in.parquet", id=rows["id"], embedding=pa.array(rows["embedding"], type_)
    )
    with pytest.raises(InputError, match=f"1 of 2 rows can't be converted; the first is {first}"):
        run(registry, path, tmp_path / "out")


def test_refuses_vectors_that_overflow_on_the_way(registry, tmp_path):
    path = write_plain(
        tmp_path / "in.parquet", id=["x"], embedding=np.full((1, 8), 3e38, np.float32)
    )
    with pytest.raises(InputError, match="id 'x'"):
        run(registry, path, tmp_path / "out")


def test_refuses_a_table_of_another_version_space_or_dimension(registry, tmp_path):
    write_input(tmp_path / "one", vectors(3, 5), version=1)
    with pytest.raises(InputError, match="version 1; expected version 2"):
        run(registry, tmp_path / "one", tmp_path / "out")
    path = write_plain(tmp_path / "plain.parquet", id=[1], embedding=vectors(1, 7))
    with pytest.raises(InputError, match="dimension 7; expected 8"):
        run(registry, path, tmp_path / "out")
    folder = tmp_path / "other"
    write_table_parts(
        folder, [(pa.array([1]), vectors(1))], space="books", entity="item", version=2
    )
    with pytest.raises(InputError, match="space books; expected space movies"):
        run(registry, folder, tmp_path / "out")


def test_refuses_parts_that_differ(registry, tmp_path):
    write_plain(tmp_path / "in" / "a.parquet", id=[1], embedding=vectors(1), note=["x"])
    write_plain(tmp_path / "in" / "b.parquet", id=[2], embedding=vectors(1))
    with pytest.raises(InputError, match=r"b\.parquet has the columns id int64, embedding"):
        run(registry, tmp_path / "in", tmp_path / "out")


def test_refuses_what_no_chain_of_maps_gives(registry, tmp_path):
    write_input(tmp_path / "in", vectors(3))
    with pytest.raises(MapMismatchError, match="newer versions to older"):
        run(registry, tmp_path / "in", tmp_path / "out", source=0, target=2)
    with pytest.raises(NotFoundError, match="has no version"):
        run(registry, tmp_path / "in", tmp_path / "out", source=9)


def test_a_part_cut_short_is_refused_and_leaves_nothing(registry, tmp_path):
    path = write_plain(tmp_path / "in.parquet", id=pa.array(range(500)), embedding=vectors(500))
    data = bytearray(path.read_bytes())
    data[200:2000] = bytes(1800)  # the footer still promises what the pages no longer hold
    path.write_bytes(data)
    with pytest.raises(InputError, match="part 0 of the conversion failed"):
        run(registry, path, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_parts_that_workers_wrote_elsewhere_are_missed(registry, tmp_path, monkeypatch):
    write_input(tmp_path / "in", vectors(3))
    there = module.convert_part

    def elsewhere(conversion, groups, *, number):
        done = there(conversion, groups, number=number)
        conversion.output.files.remove(done.name)
        return done

    monkeypatch.setattr(module, "convert_part", elsewhere)
    with pytest.raises(InputError, match="lacks 1 of 1 parts"):
        run(registry, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_driver_that_is_killed_leaves_no_output(registry, tmp_path, short_folder, engine):
    write_input(tmp_path / "in", vectors(40_000), part_rows=1000)
    script = f"""
        from backstay.engines import convert as module
        module.PART_BYTES = 100 * 32
        module.convert(registry={str(registry)!r}, space="movies", source=2, target=0,
                       input={str(tmp_path / "in")!r}, output={str(tmp_path / "out")!r},
                       engine={engine!r}, workers=1)
    """
    with start_python(
        *("-c", textwrap.dedent(script)),
        env=environment(RAY_TMPDIR=short_folder),
        stderr=subprocess.PIPE,
    ) as driver:
        until(lambda: len(list(tmp_path.glob(".out.*/content/part-*"))) >= 3, alive=driver)
        driver.kill()
    kill_all(short_folder)  # Ray would end by itself, after up to a minute
    staging = list(tmp_path.glob(".out.*"))
    assert len(list(staging[0].glob("content/part-*"))) < 40
    assert not (tmp_path / "out").exists()
    run(registry, tmp_path / "in", tmp_path / "out")
    assert open_table(tmp_path / "out").rows == 40_000
    assert list(tmp_path.glob(".out.*")) == []


def test_a_conversion_that_runs_is_not_taken_for_a_dead_one(registry, tmp_path):
    write_input(tmp_path / "in", vectors(3))

    def convert_within_a_conversion():
        with new_folder(tmp_path / "out") as first:
            run(registry, tmp_path / "in", tmp_path / "out")
            assert first.path.is_dir()

    with pytest.raises(InputError, match="someone else wrote there"):
        convert_within_a_conversion()
    assert open_table(tmp_path / "out").rows == 3
    assert list(tmp_path.glob(".out.*")) == []


@pytest.mark.usefixtures("ray_cluster")
def test_a_part_whose_worker_is_killed_is_done_again(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART_BYTES", 1 << 20)
    values = vectors(2_000_000)
    write_input(tmp_path / "in", values, part_rows=500_000)
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
    assert report.parts == 4
    monkeypatch.undo()
    ids, found = open_table(tmp_path / "out").read()
    assert ids.equals(pa.array(range(len(values))))
    chain = Registry(registry).space("movies").chain(2, 0).matrix
    np.testing.assert_allclose(found, values @ chain.T, rtol=1e-4, atol=1e-4)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name[0] == "."] == []


def writer_of(path):
    """The process, not this one, that has a file open."""
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if handle.readlink() == path and (pid := int(handle.parts[2])) != os.getpid():
                return pid
    return None


def until(condition, *, alive=None, seconds=120):
    for _ in range(seconds * 1000):
        if condition():
            return
        if alive is not None and alive.poll() is not None:
            pytest.fail(f"the process ended early:\n{alive.stderr.read().decode()}")
        time.sleep(0.001)
    pytest.fail("waited in vain")


def test_a_report_is_json(registry, tmp_path):
    write_input(tmp_path / "in", vectors(4))
    report = dataclasses.asdict(run(registry, tmp_path / "in", tmp_path / "out"))
    assert report["rows"] == 4
    assert report["rows_per_second"] == pytest.approx(4 / report["seconds"])
