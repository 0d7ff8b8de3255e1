"""Versions stored as deltas, imported and converted."""

import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from backstay.cli import main
from backstay.engines.conversion.ids import repeated_ids
from backstay.engines.conversion.setup import set_up
from backstay.errors import InputError
from backstay.registry.compaction import compact
from backstay.registry.retirement import retire
from backstay.registry.store import Registry
from backstay.registry.stored import open_table
from backstay.registry.table_commit import read_commit
from backstay.registry.verify import verify
from backstay.storage.files import open_files
from tests.support.conversions import bucket, config, cut_small, run
from tests.support.deltas import DIM, long_delta, read, rows_of, write
from tests.unit.engines.test_convert_resume import interrupt
from tests.unit.engines.test_import import imported, parquet

SOURCE = {"source": 1, "targets": (0, 1)}


@pytest.fixture
def registry(tmp_path):
    return tmp_path / "registry"


@pytest.fixture
def space(registry):
    return Registry(registry).space("movies")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    cut_small(monkeypatch, part=90 * 4 * DIM, group=30 * 4 * DIM)


def test_a_delta_is_converted_row_by_row(registry, space, tmp_path):
    newer = long_delta(space)
    report = run(registry, None, tmp_path / "out", **SOURCE)
    assert (report.rows, report.written, report.input) == (943, 943, "movies version 1, item")
    assert report.parts > 8
    for table in report.tables:
        ids, values = open_table(table.path).read()
        assert rows_of(ids, values) == rows_of(*newer) == read(space.table(1, "item"))
    by_path = run(
        registry, space.files.full("movies/versions/1/tables/item"), tmp_path / "again", source=1
    )
    assert by_path.rows == 943


def test_a_delta_and_its_compaction_convert_to_the_same_rows(registry, space, tmp_path):
    long_delta(space)
    run(registry, None, tmp_path / "before", source=1)
    compact(space, 1)
    run(registry, None, tmp_path / "after", source=1)
    tables = [open_table(tmp_path / name) for name in ("before", "after")]
    assert read(tables[0]) == read(tables[1])


def test_an_interrupted_conversion_of_a_delta_goes_on(registry, space, tmp_path):
    long_delta(space)
    run(registry, None, tmp_path / "undisturbed", source=1)
    interrupt(registry, None, tmp_path / "out", source=1)
    report = run(registry, None, tmp_path / "out", source=1)
    assert 4 <= report.resumed < report.parts
    commits = [read_commit(open_files(tmp_path / name)) for name in ("undisturbed", "out")]
    assert commits[0].parts == commits[1].parts


def test_a_row_group_that_is_split_and_ids_of_a_delta(registry, space, tmp_path, monkeypatch):
    newer = long_delta(space)
    cut_small(monkeypatch, part=40 * 4 * DIM, group=10 * 4 * DIM)
    assert run(registry, None, tmp_path / "out", source=1).parts > 20
    assert rows_of(*open_table(tmp_path / "out").read()) == rows_of(*newer)
    surveyed = set_up(config(registry, None, tmp_path / "x", source=1)).table
    assert [len(rows) for rows in repeated_ids(surveyed)] == [0, 0]
    assert surveyed.rows == 943


def test_a_delta_of_another_version_than_from_names_is_refused(registry, space, tmp_path):
    long_delta(space)
    write(space, *space.table(1, "item").read(), mapped=True)
    path = space.files.full("movies/versions/1/tables/item")
    with pytest.raises(InputError, match="is labelled version 1; expected version 2"):
        run(registry, path, tmp_path / "out", source=2)


def test_everything_on_an_object_store(request, monkeypatch):
    url, _ = bucket(request, monkeypatch)
    space = Registry(url).space("movies")
    newer = long_delta(space)
    assert read(space.table(1, "item")) == rows_of(*newer)
    run(url, None, f"{url}-converted", source=1)
    assert rows_of(*open_table(f"{url}-converted").read()) == rows_of(*newer)
    where = ("--registry", url, "--space", "movies", "--json")
    cli = CliRunner()
    refused = cli.invoke(main, ["retire", *where, "0", "--force"])
    assert "the latest" not in refused.stderr
    assert "stored as changes to its tables" in refused.stderr
    done = cli.invoke(main, ["compact", *where])
    assert json.loads(done.stdout)["tables"][0]["state"] == "compacted now"
    retire(space, 0, force=True)
    assert read(space.table(1, "item")) == rows_of(*newer)
    assert verify(space, 1) == []


def test_an_import_that_differs_in_few_rows_stores_a_delta(tmp_path):
    older = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    newer = older.copy()
    newer[::20] += np.float32(0.01)
    order = np.random.default_rng(1).permutation(600)
    ids = pa.array([f"i{n}" for n in order])
    registry = tmp_path / "registry"
    first = parquet(tmp_path / "item.parquet", older)
    imported(registry, "--table", first)
    second = parquet(tmp_path / "v1.parquet", newer[order], ids)
    answer = imported(registry, "--table", second, "--entity", "item")
    (table,) = answer["tables"]
    assert (table["stored_as"], table["base"], table["changed_rows"]) == ("delta", 0, 30)
    assert table["saved_bytes"] > 10_000
    space = Registry(registry).space("movies")
    assert rows_of(*space.table(1, "item").read()) == rows_of(
        pa.array([f"i{n}" for n in range(600)]), newer
    )
    newer[3] += np.float32(0.01)
    third = parquet(tmp_path / "v2.parquet", newer[order], ids)
    whole = imported(registry, "--table", third, "--entity", "item", "--delta", "never")
    assert whole["tables"][0]["stored_as"] == "whole table"
    sizes = [
        sum(size for name, size in space.files.find(space.path(k)).items() if "tables/" in name)
        for k in (1, 2)
    ]
    assert 5 * sizes[0] < sizes[1]
    again = imported(registry, "--table", third, "--entity", "item")
    assert (again["version"], again["published"]) == (2, "by an earlier run")
    assert [verify(space, k) for k in (0, 1, 2)] == [[], [], []]
