"""Converting a table in this process."""

import dataclasses
import shlex
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.cli import main
from backstay.engines.conversion import ids as id_check
from backstay.engines.conversion import plan
from backstay.engines.conversion.convert import convert, estimate
from backstay.engines.conversion.rows import Piece
from backstay.errors import InputError, MapMismatchError, NotFoundError, UsageError
from backstay.registry.aliases import promote
from backstay.registry.store import Registry
from backstay.registry.stored import open_table
from backstay.registry.table_commit import COMMIT, read_commit
from backstay.registry.table_writer import write_table_parts
from backstay.storage.files import open_files
from tests.support.builders import fill, vector_column
from tests.support.conversions import (
    DIMS,
    config,
    cut_small,
    run,
    slowly,
    vectors,
    write_input,
    write_plain,
)
from tests.support.processes import run_python


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    root = tmp_path_factory.mktemp("registry")
    fill(Registry(root).space("movies"), *DIMS)
    return root


@pytest.fixture
def small_parts(monkeypatch):
    cut_small(monkeypatch)


@pytest.mark.parametrize(("source", "target"), [(2, 0), (2, 1), (1, 0), (2, 2)])
def test_gives_what_a_slow_loop_gives(registry, tmp_path, source, target):
    values = vectors(70, DIMS[source])
    write_input(tmp_path / "in", values, version=source, part_rows=30)
    report = run(registry, tmp_path / "in", tmp_path / "out", source=source, targets=(target,))
    table = open_table(tmp_path / "out")
    assert (table.space, table.entity, table.version) == ("movies", "item", target)
    assert (report.rows, report.dims) == (70, (DIMS[source], DIMS[target]))
    ids, found = table.read()
    assert ids.to_pylist() == list(range(70))
    expected = slowly(registry, values, source=source, target=target)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    [table] = report.tables
    assert table.sample.rows == 30
    assert table.sample.largest_error < 1e-5
    assert table.sample.least_cosine > 0.999_999


def test_several_versions_in_one_pass(registry, tmp_path):
    values = vectors(50)
    write_input(tmp_path / "in", values)
    report = run(registry, tmp_path / "in", tmp_path / "out", targets=(0, 1, 2))
    assert [(t.version, t.dim) for t in report.tables] == list(enumerate(DIMS))
    for version in range(3):
        table = open_table(tmp_path / "out" / f"v{version}", version=version)
        np.testing.assert_allclose(
            table.read()[1], slowly(registry, values, target=version), rtol=1e-4, atol=1e-5
        )
        assert report.tables[version].path == str(tmp_path / "out" / f"v{version}")


@settings(max_examples=10, deadline=None)
@given(groups=st.lists(st.integers(0, 40), max_size=6), size=st.sampled_from([64, 640, 1 << 20]))
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
        cut_small(patch, part=size, group=size)
        report = run(registry, folder / "in.parquet", folder / "out", workers=2)
    ids, found = open_table(folder / "out").read()
    assert report.rows == len(values)
    assert ids.to_pylist() == list(range(len(values)))
    np.testing.assert_allclose(found, slowly(registry, values), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("small_parts")
def test_one_huge_row_group_is_split(registry, tmp_path):
    values = vectors(2000)
    path = write_plain(
        tmp_path / "in.parquet", row_group_size=2000, id=pa.array(range(2000)), embedding=values
    )
    report = run(registry, path, tmp_path / "out", workers=3)
    assert report.parts > 6
    ids, found = open_table(tmp_path / "out").read()
    assert ids.to_pylist() == list(range(2000))
    np.testing.assert_allclose(found, slowly(registry, values), rtol=1e-4, atol=1e-5)


def test_many_workers_decode_a_huge_row_group_little_more_than_once():
    """Each share of it is decoded from the row group's beginning."""
    rows = 64_000
    pieces = [Piece("f", (0,), (rows,), at, at + 1000, at) for at in range(0, rows, 1000)]
    shares = plan.runs([(number, (piece,)) for number, piece in enumerate(pieces)], workers=32)
    assert len(shares) == 4
    assert [number for share in shares for number, _ in share] == list(range(64))
    decoded = sum(share[-1][1][0].stop for share in shares)
    written = [sum(part[0].stop - part[0].start for _, part in share) for share in shares]
    assert decoded < 3 * rows
    assert written == sorted(written, reverse=True)


@pytest.mark.usefixtures("small_parts")
def test_wide_columns_count_for_the_size_of_parts_and_row_groups(registry, tmp_path):
    wide = ["x" * 4000] * 200
    path = write_plain(
        tmp_path / "in.parquet", id=pa.array(range(200)), embedding=vectors(200), wide=wide
    )
    report = run(registry, path, tmp_path / "out")
    assert report.parts > 50
    for part in (tmp_path / "out").glob("*.parquet"):
        metadata = pq.ParquetFile(part).metadata
        assert all(metadata.row_group(n).num_rows <= 4 for n in range(metadata.num_row_groups))
    assert pq.read_table(tmp_path / "out")["wide"].to_pylist() == wide


def test_a_stored_version_needs_no_file(registry, tmp_path):
    with pytest.raises(UsageError, match="has the tables item, user; name one by --entity"):
        run(registry, None, tmp_path / "out", assume_version=None)
    report = run(registry, None, tmp_path / "out", assume_version=None, entity="item")
    assert report.input == "movies version 2, item"
    stored = Registry(registry).space("movies").table(2, "item").read()
    ids, found = open_table(tmp_path / "out").read()
    assert ids == stored[0]
    np.testing.assert_allclose(found, slowly(registry, stored[1]), rtol=1e-4, atol=1e-5)


def test_ray_is_not_loaded(registry, tmp_path):
    path = write_input(tmp_path / "in", vectors(5))
    script = f"""
        import sys
        from backstay.engines.conversion.convert import convert
        from tests.support.conversions import config
        report = convert(config({str(registry)!r}, {str(path)!r}, {str(tmp_path / "out")!r}))
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
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [COMMIT, "part-00000.parquet"]
    file = pq.ParquetFile(tmp_path / "out" / "part-00000.parquet")
    assert file.schema_arrow.equals(open_table(tmp_path / "out").schema, check_metadata=True)
    column = file.metadata.row_group(0).column(1)
    assert column.compression == "UNCOMPRESSED"
    assert "RLE_DICTIONARY" not in column.encodings


def test_a_table_without_rows_stays_one(registry, tmp_path):
    write_input(tmp_path / "in", vectors(0), ids=pa.array([], pa.string()))
    report = run(registry, tmp_path / "in", tmp_path / "out")
    assert (report.rows, report.parts) == (0, 1)
    table = open_table(tmp_path / "out")
    assert (table.rows, table.dim, table.version) == (0, 3, 0)


def list_of(values, type_):
    return pa.array(list(values.astype(np.float64)), pa.list_(type_))


FORMS = {
    "fixed-size list of float16": lambda x: vector_column(x.astype(np.float16)),
    "fixed-size list of float64": lambda x: vector_column(x.astype(np.float64)),
    "list of float32": lambda x: list_of(x, pa.float32()),
    "list of float64": lambda x: list_of(x, pa.float64()),
    "large list": lambda x: list_of(x, pa.float32()).cast(pa.large_list(pa.float32())),
    "binary of float16": lambda x: binary(x.astype("<f2")),
    "binary of float32": lambda x: binary(x.astype("<f4")),
    "binary of float64": lambda x: binary(x.astype("<f8")),
}


def binary(values):
    rows = [row.tobytes() for row in values]
    return pa.array(rows, pa.binary(len(rows[0])))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("small_parts")
def test_vectors_of_any_form_and_name(registry, tmp_path, form):
    values = vectors(400)
    columns = {"key": pa.array(range(400), pa.int32()), "vec": FORMS[form](values)}
    path = write_plain(tmp_path / "in.parquet", **columns)
    run(registry, path, tmp_path / "out", id_column="key", embedding_column="vec")
    ids, found = open_table(tmp_path / "out").read()
    assert ids.to_pylist() == list(range(400))
    tolerance = 1e-2 if "float16" in form else 1e-4
    np.testing.assert_allclose(found, slowly(registry, values), rtol=tolerance, atol=tolerance)


def test_float16_out(registry, tmp_path):
    values = vectors(10)
    write_input(tmp_path / "in", values)
    report = run(registry, tmp_path / "in", tmp_path / "out", dtype="float16")
    table = open_table(tmp_path / "out")
    assert table.dtype == "float16"
    np.testing.assert_allclose(table.read()[1], slowly(registry, values), rtol=2e-3, atol=1e-2)
    assert 0 < report.tables[0].sample.largest_error < 0.05


def test_a_dry_run_estimates_and_writes_nothing(registry, tmp_path):
    write_input(tmp_path / "in", vectors(1000))
    found = estimate(config(registry, tmp_path / "in", tmp_path / "out", targets=(0, 1)))
    assert (found.rows, found.dims, found.parts) == (1000, (8, 3, 5), 1)
    assert found.output_bytes >= 1000 * 4 * (3 + 5)
    assert found.seconds > 0
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


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


def test_refuses_a_table_of_another_version_space_or_dimension(registry, tmp_path):
    write_input(tmp_path / "one", vectors(3, 5), version=1)
    with pytest.raises(InputError, match=r"version 1; expected version 2|dimension 5"):
        run(registry, tmp_path / "one", tmp_path / "out")
    write_input(tmp_path / "two", vectors(3, 8), version=1)
    with pytest.raises(InputError, match="version 1; expected version 2"):
        run(registry, tmp_path / "two", tmp_path / "out")
    path = write_plain(tmp_path / "plain.parquet", id=[1], embedding=vectors(1, 7))
    with pytest.raises(InputError, match="dimension 7; expected 8"):
        run(registry, path, tmp_path / "out")
    folder = tmp_path / "other"
    write_table_parts(
        folder, [(pa.array([1]), vectors(1))], space="books", entity="item", version=2
    )
    with pytest.raises(InputError, match="space books; expected space movies"):
        run(registry, folder, tmp_path / "out")


def test_a_table_without_a_label_is_refused_unless_its_version_is_given(registry, tmp_path):
    path = write_plain(tmp_path / "in.parquet", id=[1], embedding=vectors(1))
    with pytest.raises(InputError, match=r"no label of the version .* --assume-version 2"):
        run(registry, path, tmp_path / "out", assume_version=None)
    with pytest.raises(UsageError, match="assume_version must be 2, as --from says; found 1"):
        run(registry, path, tmp_path / "out", assume_version=1)
    assert run(registry, path, tmp_path / "out", assume_version=2).rows == 1


def test_refuses_parts_that_differ(registry, tmp_path):
    write_plain(tmp_path / "in" / "a.parquet", id=[1], embedding=vectors(1), note=["x"])
    write_plain(tmp_path / "in" / "b.parquet", id=[2], embedding=vectors(1))
    with pytest.raises(InputError, match=r"b\.parquet has the columns 'id' int64, 'embedding'"):
        run(registry, tmp_path / "in", tmp_path / "out")


def test_refuses_what_no_chain_of_maps_gives(registry, tmp_path):
    write_input(tmp_path / "in", vectors(3))
    with pytest.raises(MapMismatchError, match="newer versions to older"):
        run(registry, tmp_path / "in", tmp_path / "out", source=0, targets=(2,))
    with pytest.raises(NotFoundError, match="has no version"):
        run(registry, tmp_path / "in", tmp_path / "out", source=9)


@pytest.mark.parametrize("of", [int, str])
def test_ids_are_compared_in_several_passes_where_they_are_many(
    registry, tmp_path, monkeypatch, of
):
    monkeypatch.setattr(id_check, "KEYS_AT_ONCE", 100)
    monkeypatch.setattr(id_check, "_CHUNK_ROWS", 150)
    ids = [of(number) for number in (*range(0, 7000, 10), 30)]
    path = write_plain(tmp_path / "in.parquet", id=ids, embedding=vectors(701))
    with pytest.raises(InputError, match=r"1 of 701 rows repeat an id; the first is .* row 0: "):
        run(registry, path, tmp_path / "out")


def test_a_report_can_be_told_as_json_and_stands_in_the_commit_file(registry, tmp_path):
    write_input(tmp_path / "in", vectors(4))
    report = run(registry, tmp_path / "in", tmp_path / "out")
    told = dataclasses.asdict(report)
    assert told["rows"] == told["written"] == 4
    assert told["rows_per_second"] == pytest.approx(4 / told["seconds"])
    assert read_commit(open_files(tmp_path / "out")).conversion["job"] == report.job
    again = convert(config(registry, tmp_path / "in", tmp_path / "out"))
    assert again == report


def test_columns_in_the_names_of_folders_are_kept(registry, tmp_path):
    values = vectors(30)
    places = {"country=de/day=1": 0, "country=fr/day=2": 10, "country=a%20b/day=3": 20}
    for folder, first in places.items():
        write_plain(
            tmp_path / "in" / folder / "a.parquet",
            id=pa.array(range(first, first + 10)),
            embedding=values[first : first + 10],
        )
    report = run(registry, tmp_path / "in", tmp_path / "out")
    assert report.extra_columns == ("country", "day")
    table = pq.read_table(tmp_path / "out")
    assert table.schema.field("day").type == pa.int64()
    found = {row["id"]: (row["country"], row["day"]) for row in table.to_pylist()}
    assert found == {
        row: ("de", 1) if row < 10 else ("fr", 2) if row < 20 else ("a b", 3) for row in range(30)
    }


def test_a_missing_value_in_a_folder_is_null_and_a_column_of_the_file_wins(registry, tmp_path):
    for folder, first in {"day=007": 0, "day=__HIVE_DEFAULT_PARTITION__": 10}.items():
        write_plain(
            tmp_path / "in" / f"id=9/{folder}" / "a.parquet",
            id=pa.array(range(first, first + 10)),
            embedding=vectors(10),
        )
    run(registry, tmp_path / "in", tmp_path / "out")
    found = pq.read_table(tmp_path / "out").to_pylist()
    assert {row["id"]: row["day"] for row in found} == {
        row: "007" if row < 10 else None for row in range(20)
    }


def test_parts_in_folders_of_other_columns_are_refused(registry, tmp_path):
    for folder in ("day=1", "month=1"):
        write_plain(tmp_path / "in" / folder / "a.parquet", id=pa.array([1]), embedding=vectors(1))
    with pytest.raises(InputError, match=r"folders of the columns month; day=1/a\.parquet"):
        run(registry, tmp_path / "in", tmp_path / "out")


def test_aliases_name_versions_and_the_table(tmp_path):
    root = tmp_path / "registry"
    space = fill(Registry(root).space("movies"), *DIMS)
    promote(space, 2)
    promote(space, 1, alias="stable")
    words = ["--registry", str(root), "--space", "movies", "--entity", "item"]
    words += ["--from", "prod", "--to", "0", "stable", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, ["convert", *words])
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["v0", "v1"]
    result = CliRunner().invoke(main, ["convert", *words, "--to", "nobody"])
    assert result.exit_code == 1
    assert "movies has no alias nobody" in result.stderr


def test_a_table_of_another_version_is_refused_with_the_command_that_converts_it(
    registry, tmp_path
):
    write_input(tmp_path / "in put", vectors(9, dim=5), version=1)
    asked = config(registry, tmp_path / "in put", tmp_path / "out", assume_version=None)
    asked = dataclasses.replace(asked, dtype="float16")
    with pytest.raises(InputError, match="is labelled version 1; expected version 2") as caught:
        convert(asked)
    command = str(caught.value).partition("This converts it: ")[2]
    words = shlex.split(command)
    assert words[:2] == ["backstay", "convert"]
    result = CliRunner().invoke(main, words[1:])
    assert result.exit_code == 0, result.stderr
    assert open_table(tmp_path / "out").dtype == "float16"
