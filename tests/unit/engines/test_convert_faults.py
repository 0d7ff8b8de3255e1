"""Tables that can't be converted, through the command line: one line, nothing half-written."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from backstay.cli import main
from backstay.engines.conversion import convert as module
from backstay.engines.conversion import part
from backstay.registry.store import Registry
from backstay.registry.stored import open_table
from backstay.registry.table_commit import COMMIT
from backstay.storage.files import open_files
from tests.support.builders import fill, vector_column
from tests.support.conversions import (
    DIMS,
    cut_small,
    run,
    slowly,
    vectors,
    write_input,
    write_plain,
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    root = tmp_path_factory.mktemp("registry")
    fill(Registry(root).space("movies"), *DIMS)
    return root


def command(registry, input_, output, *more):
    words = ["--registry", registry, "--space", "movies", "--from", 2, "--to", 0]
    words += ["--input", input_, "--output", output, "--assume-version", 2, *more]
    return CliRunner().invoke(main, ["convert", *map(str, words)])


def list_column(rows):
    return pa.array(rows, pa.list_(pa.float32()))


ONES = [1.0] * 8
FIXED = pa.list_(pa.float32(), 8)
BAD = {
    "null id": ({"id": [1, None], "embedding": pa.array([ONES, ONES], FIXED)}, "no id"),
    "repeated id": (
        {"id": [7, 7], "embedding": pa.array([ONES, ONES], FIXED)},
        "row group 0, row 0 already",
    ),
    "id beyond int64": (
        {"id": pa.array([1, 2**63], pa.uint64()), "embedding": pa.array([ONES, ONES], FIXED)},
        "an id that doesn't fit int64",
    ),
    "null vector": ({"id": [1, 2], "embedding": pa.array([ONES, None], FIXED)}, "no vector"),
    "null number": (
        {"id": [1, 2], "embedding": pa.array([ONES, [1.0] * 7 + [None]], FIXED)},
        "a vector with a null",
    ),
    "NaN": (
        {"id": [1, 2], "embedding": pa.array([ONES, [1.0] * 7 + [np.nan]], FIXED)},
        "a vector with a NaN",
    ),
    "infinity": (
        {"id": [1, 2], "embedding": pa.array([ONES, [1.0] * 7 + [np.inf]], FIXED)},
        "a vector with an infinity",
    ),
    "wrong length": (
        {"id": [1, 2], "embedding": list_column([ONES, ONES[1:]])},
        "a vector of 7 numbers; expected 8",
    ),
    "overflow": (
        {"id": [1, 2], "embedding": vector_column(np.float32([ONES, [3e38] * 8]))},
        "a vector whose conversion overflows",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_refused_with_file_row_group_and_row(registry, tmp_path, case):
    columns, reason = BAD[case]
    path = write_plain(tmp_path / "in.parquet", **columns)
    result = command(registry, path, tmp_path / "out")
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert "1 of 2 rows" in last
    assert "in.parquet, row group 0, row 1" in last
    assert reason in last
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_set_aside_on_request(registry, tmp_path, case):
    columns, reason = BAD[case]
    path = write_plain(tmp_path / "in.parquet", **columns)
    result = command(registry, path, tmp_path / "out", "--on-error", "quarantine", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["rows"], report["written"], report["set_aside"]) == (2, 1, 1)
    ids, _ = open_table(tmp_path / "out").read()
    assert ids.to_pylist() == [columns["id"][0] if case != "id beyond int64" else 1]
    rejected = pq.read_table(tmp_path / "out" / "rejected")
    assert rejected.num_rows == 1
    assert rejected["where"][0].as_py().endswith("in.parquet, row group 0, row 1")
    assert reason in rejected["reason"][0].as_py()
    assert rejected["id"][0].equals(pq.read_table(path)["id"][1])


def test_rows_are_counted_over_all_parts_and_groups(registry, tmp_path, monkeypatch):
    cut_small(monkeypatch)
    values = vectors(900)
    values[[450, 451, 777], 3] = np.nan
    path = write_plain(tmp_path / "in.parquet", id=pa.array(range(900)), embedding=values)
    result = command(registry, path, tmp_path / "out")
    assert "3 of 900 rows can't be converted" in result.stderr
    assert "in.parquet, row group 4, row 50 (id 450): a vector with a NaN" in result.stderr
    report = run(registry, path, tmp_path / "out", on_error="quarantine")
    assert (report.written, report.set_aside) == (897, 3)
    ids, found = open_table(tmp_path / "out").read()
    good = np.delete(np.arange(900), [450, 451, 777])
    assert ids.to_pylist() == good.tolist()
    np.testing.assert_allclose(found, slowly(registry, values[good]), rtol=1e-4, atol=1e-5)


def test_a_damaged_page_is_refused_or_set_aside(registry, tmp_path):
    values = vectors(500)
    path = write_plain(tmp_path / "in.parquet", id=pa.array(range(500)), embedding=values)
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(2).column(1)
    data[column.data_page_offset : column.data_page_offset + 30] = bytes(30)
    path.write_bytes(data)
    result = command(registry, path, tmp_path / "out")
    assert result.exit_code == 1
    assert "100 of 500 rows can't be converted" in result.stderr
    assert "in.parquet, row group 2, can't be read" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]
    report = run(registry, path, tmp_path / "out", on_error="quarantine")
    assert (report.written, report.set_aside) == (400, 100)
    assert [(one.row_group, one.rows) for one in report.unreadable] == [(2, 100)]
    assert open_table(tmp_path / "out").read()[0].to_pylist() == [*range(200), *range(300, 500)]


def test_a_file_that_is_no_parquet_is_refused_or_set_aside(registry, tmp_path):
    write_plain(tmp_path / "in" / "a.parquet", id=[1, 2], embedding=vectors(2))
    (tmp_path / "in" / "b.parquet").write_bytes(b"PAR1 not really")
    result = command(registry, tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 1
    assert "b.parquet is no whole Parquet file" in result.stderr.splitlines()[-1]
    report = run(registry, tmp_path / "in", tmp_path / "out", on_error="quarantine")
    assert (report.written, report.set_aside) == (2, 0)
    assert report.unreadable[0].file.endswith("b.parquet")


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"backstay.version", b"\xff\xfe"), (b"backstay.space", b"\x1b[31mred\x1b[0m")],
)
def test_metadata_that_is_no_text_is_one_clear_line(registry, tmp_path, key, value):
    table = pa.table({"id": [1], "embedding": vector_column(vectors(1))})
    pq.write_table(table.replace_schema_metadata({key: value}), tmp_path / "in.parquet")
    result = command(registry, tmp_path / "in.parquet", tmp_path / "out")
    assert result.exit_code == 1
    assert "not UTF-8 or not printable" in result.stderr.splitlines()[-1]
    assert "\x1b" not in result.output
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["\x1b[31mred", "x\ny"])
def test_names_of_columns_are_printed_in_plain_letters(registry, tmp_path, name):
    path = write_plain(tmp_path / "in.parquet", **{name: [1]}, embedding=vectors(1))
    result = command(registry, path, tmp_path / "out")
    assert result.exit_code == 1
    assert "must have one column 'id'" in result.stderr
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1.5], "embedding": vectors(1)}, "must hold id as string or integer; found double"),
        ({"id": [1], "embedding": ["x"]}, "as lists of float16, float32 or float64"),
        ({"id": [1], "embedding": pa.array([b"123"], pa.binary(3))}, "3 bytes; expected 8 numbers"),
        ({"key": [1], "embedding": vectors(1)}, "Name the right one by --id-column"),
        ({"id": [1], "v": vectors(1)}, "Name the right one by --embedding-column"),
    ],
)
def test_columns_that_are_none_of_ours_are_refused(registry, tmp_path, columns, message):
    if isinstance(columns.get("v"), np.ndarray):
        columns = columns | {"v": vector_column(columns["v"])}
    result = command(registry, write_plain(tmp_path / "in.parquet", **columns), tmp_path / "out")
    assert result.exit_code == 1
    assert message in result.stderr.splitlines()[-1]


def test_a_column_whose_name_the_output_needs_is_refused(registry, tmp_path):
    path = write_plain(tmp_path / "in.parquet", id=[1], key=[2], embedding=vectors(1))
    result = command(registry, path, tmp_path / "out", "--id-column", "key")
    assert "has a column 'id' beside those" in result.stderr


def test_an_uncommitted_table_is_no_input(registry, tmp_path):
    write_input(tmp_path / "in", vectors(10))
    (tmp_path / "in" / COMMIT).unlink()
    result = command(registry, tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 1
    assert "was never committed" in result.stderr


@pytest.mark.parametrize("rows", [13, 20])
def test_an_input_that_is_replaced_meanwhile_is_noticed(registry, tmp_path, monkeypatch, rows):
    path = write_plain(tmp_path / "in.parquet", id=pa.array(range(20)), embedding=vectors(20))
    there = module.ids_check

    def replace(table):
        write_plain(path, id=pa.array(range(rows)), embedding=vectors(rows, seed=1))
        return there(table)

    monkeypatch.setattr(module, "ids_check", replace)
    result = command(registry, path, tmp_path / "out")
    assert result.exit_code == 1
    assert "was replaced while it was being converted" in result.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_result_that_is_not_input_times_map_is_refused(registry, tmp_path, monkeypatch):
    write_input(tmp_path / "in", vectors(20))
    there = part.with_vectors
    monkeypatch.setattr(
        part, "with_vectors", lambda t, d, values: there(t, d, values + np.float32(0.1))
    )
    result = command(registry, tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 1
    assert "differs from its input times the map by up to 1.0e-01" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_parts_that_workers_wrote_elsewhere_are_missed(registry, tmp_path, monkeypatch):
    write_input(tmp_path / "in", vectors(3))
    there = part.convert_run

    def elsewhere(conversion, output, todo, **options):
        for record in there(conversion, output, todo, **options):
            output.files.remove(record.tables[0].name)
            yield record

    monkeypatch.setattr("backstay.engines.conversion.work.convert_run", elsewhere)
    result = command(registry, tmp_path / "in", tmp_path / "out")
    assert "lacks 1 of 1 parts" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_object_store_keeps_nothing_of_a_conversion_that_is_refused(registry, tmp_path):
    columns, _ = BAD["NaN"]
    path = write_plain(tmp_path / "in.parquet", **columns)
    result = command(registry, path, "memory://store/failed")
    assert result.exit_code == 1
    assert open_files("memory://store/failed").find("") == {}


def test_several_versions_follow_one_flag(registry, tmp_path):
    write_input(tmp_path / "in", vectors(4))
    words = ["--registry", registry, "--space", "movies", "--to", 0, 1, "--from", 2]
    words += ["--input", tmp_path / "in", "--output", tmp_path / "out", "--to", 2, "--json"]
    result = CliRunner().invoke(main, ["convert", *map(str, words)])
    assert result.exit_code == 0, result.stderr
    assert [t["version"] for t in json.loads(result.stdout)["tables"]] == [0, 1, 2]
    dry = CliRunner().invoke(main, ["convert", *map(str, words), "--dry-run"])
    assert json.loads(dry.stdout)["rows"] == 4
