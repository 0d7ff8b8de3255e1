"""Conversions that are interrupted: nothing is lost, and the same command goes on."""

import logging

import numpy as np
import pyarrow as pa
import pytest

from backstay.engines.conversion import part, work
from backstay.engines.conversion.output import PartRecord, converted_output
from backstay.errors import InputError
from backstay.registry.store import Registry
from backstay.registry.stored import open_table
from backstay.registry.table_commit import COMMIT, read_commit
from backstay.storage.files import open_files
from backstay.storage.folders import new_folder
from tests.support.builders import fill
from tests.support.conversions import DIMS, bucket, config, cut_small, run, vectors, write_input
from tests.support.killed_conversions import kill_ten_times

PART = 250 * 48  # bytes


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    root = tmp_path_factory.mktemp("registry")
    fill(Registry(root).space("movies"), *DIMS)
    return root


@pytest.fixture(params=["folder", "memory"])
def output(request, tmp_path):
    if request.param == "folder":
        yield str(tmp_path / "out")
        return
    yield f"memory://{tmp_path}/out"
    open_files(f"memory://{tmp_path}").remove("")


class KilledError(BaseException):
    """Ends a conversion without any clean-up of ours, as a kill would."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    cut_small(monkeypatch, part=PART, group=PART // 4)


def interrupt(*arguments, **options):
    """A conversion that ends at its fifth part, as if it were killed."""
    there = part.convert_run

    def four(*arguments, **options):
        for record in there(*arguments, **options):
            if record.number >= 4:
                raise KilledError
            yield record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "convert_run", four)
        with pytest.raises(KilledError):
            run(*arguments, workers=1, **options)


def shas(output):
    commit = read_commit(open_files(output))
    return [(part.rows, part.sha256) for part in commit.parts]


def test_the_same_command_does_what_is_missing(registry, tmp_path, output, caplog):
    write_input(tmp_path / "in", vectors(2000), part_rows=200)
    run(registry, tmp_path / "in", tmp_path / "undisturbed")
    with caplog.at_level(logging.WARNING):
        interrupt(registry, tmp_path / "in", output)
    assert "The same command goes on from there" in caplog.text
    with pytest.raises(InputError, match=r"holds no table|was never committed"):
        open_table(output)
    report = run(registry, tmp_path / "in", output)
    assert 5 <= report.resumed < report.parts
    assert shas(output) == shas(tmp_path / "undisturbed")
    assert open_table(output).rows == 2000
    assert len(open_files(output).find("")) == report.parts + 1
    assert not list(tmp_path.glob(".*.partial"))


def test_a_changed_input_or_option_begins_anew(registry, tmp_path):
    write_input(tmp_path / "in", vectors(2000), part_rows=200)
    interrupt(registry, tmp_path / "in", tmp_path / "out")
    report = run(registry, tmp_path / "in", tmp_path / "out", dtype="float16")
    assert report.resumed == 0
    assert not list(tmp_path.glob(".*.partial"))


def test_on_an_object_store_another_job_is_refused_where_one_is_unfinished(registry, tmp_path):
    output = f"memory://{tmp_path}/out"
    write_input(tmp_path / "in", vectors(2000), part_rows=200)
    interrupt(registry, tmp_path / "in", output)
    before = open_files(output).find("")
    with pytest.raises(InputError, match="holds an unfinished conversion of other input"):
        run(registry, tmp_path / "in", output, dtype="float16")
    assert open_files(output).find("") == before
    assert run(registry, tmp_path / "in", output).resumed >= 5
    open_files(output).remove("")


def test_a_second_converter_deletes_nothing_of_the_first(registry, tmp_path, monkeypatch):
    """The first finishes while the second, with other options, is at work and then fails."""
    output = f"memory://{tmp_path}/out"
    write_input(tmp_path / "in", vectors(200))
    there = part.convert_run

    def first_finishes(*arguments, **options):
        monkeypatch.setattr(work, "convert_run", there)
        with monkeypatch.context() as patch:
            patch.setattr("backstay.engines.conversion.output._refuse_others", lambda *_: None)
            run(registry, tmp_path / "in", output)
        yield from there(*arguments, **options)

    monkeypatch.setattr(work, "convert_run", first_finishes)
    with pytest.raises(InputError, match="another writer has just committed"):
        run(registry, tmp_path / "in", output, dtype="float16")
    table = open_table(output)
    assert (table.rows, table.dtype) == (200, "float32")
    assert len(open_files(output).find("")) == 2
    open_files(output).remove("")


def test_of_two_attempts_at_a_part_the_first_counts(registry, tmp_path, output, monkeypatch):
    """An attempt that was thought dead ends after its repetition, and removes its own file only."""
    write_input(tmp_path / "in", vectors(200))
    there = part.convert_run

    def twice(*arguments, **options):
        first, second = (list(there(*arguments, **options)) for _ in range(2))
        assert first == second
        yield from first

    monkeypatch.setattr(work, "convert_run", twice)
    run(registry, tmp_path / "in", output)
    assert open_table(output).rows == 200
    assert len(open_files(output).find("")) == 2


def test_an_attempt_that_fails_late_leaves_the_finished_part(
    registry, tmp_path, output, monkeypatch
):
    write_input(tmp_path / "in", vectors(200))
    there = part.convert_run

    def late_failure(conversion, place, todo, **options):
        yield from there(conversion, place, todo, **options)
        with monkeypatch.context() as patch:
            patch.setattr(part, "with_vectors", _fail)
            with pytest.raises(OSError, match="network"):
                list(there(conversion, place, todo, **options))

    monkeypatch.setattr(work, "convert_run", late_failure)
    run(registry, tmp_path / "in", output)
    assert open_table(output).rows == 200


def _fail(*_):
    raise OSError(5, "network")


def test_a_lost_part_of_a_finished_conversion_is_told(registry, tmp_path):
    write_input(tmp_path / "in", vectors(20))
    run(registry, tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "part-00000.parquet").unlink()
    with pytest.raises(Exception, match="it is missing"):
        run(registry, tmp_path / "in", tmp_path / "out")


def test_a_conversion_that_runs_is_not_taken_for_a_dead_one(registry, tmp_path):
    write_input(tmp_path / "in", vectors(3))

    def convert_within_a_conversion():
        with new_folder(tmp_path / "out") as first:
            run(registry, tmp_path / "in", tmp_path / "out")
            assert first.is_dir()

    with pytest.raises(InputError, match="someone else wrote there"):
        convert_within_a_conversion()
    assert open_table(tmp_path / "out").rows == 3
    assert list(tmp_path.glob(".out.*")) == []


@pytest.mark.parametrize("store", ["local", "s3"])
def test_ten_kills_change_nothing(registry, tmp_path, store, request, monkeypatch):
    rows = 16_000 if store == "local" else 8_000
    values = vectors(rows)
    write_input(tmp_path / "in", values, ids=pa.array(np.arange(rows)[::-1]), part_rows=1000)
    variables = {}
    output = str(tmp_path / "out")
    if store == "s3":
        output, variables = bucket(request, monkeypatch)
    wanted = config(registry, tmp_path / "in", output, targets=(0, 1), workers=2)
    parts = run(registry, tmp_path / "in", tmp_path / "undisturbed", targets=(0, 1)).parts
    assert parts >= rows // 250
    resumed = kill_ten_times(wanted, part=PART, parts=parts, **variables)
    assert 0 < resumed <= parts
    for folder in ("v0", "v1"):
        expected = open_table(tmp_path / "undisturbed" / folder).read()
        found = open_table(f"{output}/{folder}").read()
        assert found[0].equals(expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
    names = open_files(output).find("")
    assert len(names) == 2 * (parts + 1)
    assert sum(name.endswith(COMMIT) for name in names) == 2
    assert not list(tmp_path.glob(".*.partial"))


def test_a_process_thought_dead_adds_nothing_to_a_published_table(tmp_path):
    with converted_output(str(tmp_path / "out"), job="0" * 16, folders=("",)) as output:
        pass
    with pytest.raises(FileNotFoundError), output.part("", 1):
        pytest.fail("it can't be opened")
    with pytest.raises(InputError, match="finished by other processes"):
        output.record(PartRecord(number=1, read=250))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
