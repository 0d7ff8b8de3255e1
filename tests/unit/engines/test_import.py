"""Importing outside tables as versions, through the command line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pyarrow import feather

from backstay.cli import main
from backstay.registry.store import Registry
from backstay.registry.verify import verify

ROWS = 400


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def import_(registry, *words):
    return run("import", "--registry", registry, "--space", "movies", "--json", *words)


def imported(registry, *words):
    done = import_(registry, *words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def vectors(dim, *, seed=0, rows=ROWS):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def rotated(older, dim, *, noise=0.0):
    """Wider vectors from which a linear map leads back to the older ones."""
    matrix = np.linalg.qr(vectors(dim, rows=dim, seed=1))[0][: older.shape[1]]
    return (older @ matrix + noise * vectors(dim, seed=2, rows=len(older))).astype(np.float32)


def parquet(path, values, ids=None, dtype=np.float32):
    ids = pa.array([f"i{n}" for n in range(len(values))]) if ids is None else ids
    flat = pa.array(values.astype(dtype).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    pq.write_table(pa.table({"id": ids, "embedding": column}), path)
    return path


@pytest.fixture
def registry(tmp_path):
    """A registry whose version 0 was imported: 400 items of 8 dimensions."""
    path = parquet(tmp_path / "item.parquet", vectors(8))
    imported(tmp_path / "registry", "--table", path)
    return tmp_path / "registry"


def space_of(registry):
    return Registry(registry).space("movies")


def test_a_table_becomes_the_next_version_with_a_map_that_is_judged(registry, tmp_path):
    older = vectors(8)
    newer = rotated(older, 12, noise=0.01)
    order = np.random.default_rng(3).permutation(ROWS)
    ids = pa.array([f"i{n}" for n in order])
    path = parquet(tmp_path / "v1.parquet", newer[order], ids)
    answer = imported(registry, "--table", path, "--entity", "item")
    assert (answer["version"], answer["dim"], answer["rows"]) == (1, 12, {"item": ROWS})
    figures = answer["metrics"]["map"]
    assert figures["common_ids"] == ROWS == figures["fitted_ids"] + figures["judged_ids"]
    assert figures["judged_ids"] > 50
    assert figures["relative_error"] < 0.02
    assert figures["cosine"] > 0.999
    assert figures["overlap@10"] > 0.9
    space = space_of(registry)
    assert verify(space, 1) == []
    assert space.manifest(1).method == "import"
    found_ids, found = space.table(1, "item").read()
    assert found_ids.to_pylist() == ids.to_pylist()
    np.testing.assert_array_equal(found, newer[order])
    converted = found @ space.chain(1, 0).matrix.T
    np.testing.assert_allclose(converted, older[order], atol=0.2)
    rows = {row["figure"]: (row["version"], row["before"]) for row in answer["comparison"]}
    assert rows["dimension"] == (12, 8)
    assert rows["alignment_error_to_version_0"][0] < 0.02


def test_the_same_table_again_publishes_nothing_more(registry, tmp_path):
    again = imported(registry, "--table", tmp_path / "item.parquet")
    assert (again["version"], again["published"]) == (0, "by an earlier run")
    assert space_of(registry).versions() == [0]
    assert space_of(registry).drafts() == []


def test_arrow_files_numpy_arrays_and_half_floats_are_read(tmp_path):
    values = vectors(8)
    half = values.astype(np.float16)
    ids = pa.array(np.arange(ROWS))
    table = pq.read_table(parquet(tmp_path / "a.parquet", half, ids, dtype=np.float16))
    feather.write_feather(table, tmp_path / "a.arrow", compression="uncompressed")
    np.save(tmp_path / "a.npy", half)
    np.save(tmp_path / "ids.npy", np.arange(ROWS))
    (tmp_path / "ids.txt").write_text("\n".join(map(str, range(ROWS))), encoding="utf-8")
    sources = {
        "parquet": ("a.parquet",),
        "arrow": ("a.arrow",),
        "numpy": ("a.npy", "ids.npy"),
        "text": ("a.npy", "ids.txt"),
    }
    for name, (file, *ids_file) in sources.items():
        words = [word for part in ids_file for word in ("--ids", tmp_path / part)]
        answer = imported(
            *(tmp_path / name, "--table", tmp_path / file, "--entity", "item"), *words
        )
        assert answer["rows"] == {"item": ROWS}
        found_ids, found = space_of(tmp_path / name).table(0, "item").read()
        np.testing.assert_array_equal(found, half.astype(np.float32))
        expected = [str(n) for n in range(ROWS)] if name == "text" else list(range(ROWS))
        assert found_ids.to_pylist() == expected


def test_two_entities_share_one_map(tmp_path):
    registry = tmp_path / "registry"
    older = vectors(8), vectors(8, seed=5)
    for number, (first, second) in enumerate((older, [rotated(part, 10) for part in older])):
        words = []
        for entity, values in (("user", first), ("item", second)):
            path = parquet(tmp_path / f"{entity}{number}.parquet", values)
            words += ["--table", path, "--entity", entity]
        answer = imported(registry, *words)
    assert answer["metrics"]["map"]["common_ids"] == 2 * ROWS
    assert answer["metrics"]["map"]["relative_error"] < 1e-3


def refused(registry, result, *words):
    assert result.exit_code == 1, result.output
    line = result.stderr.splitlines()[-1]
    for word in words:
        assert word in line
    assert space_of(registry).versions() == [0]
    assert space_of(registry).drafts() == []


def test_a_table_without_a_map_is_refused_while_older_versions_are_readable(registry, tmp_path):
    path = parquet(tmp_path / "v1.parquet", vectors(12, seed=4))
    options = ("--table", path, "--entity", "item", "--no-map")
    refused(registry, import_(registry, *options), "--no-map has no map", "(0)", "--force")
    assert imported(registry, *options, "--force")["version"] == 1
    assert "backward.safetensors" not in space_of(registry).manifest(1).files


def test_a_map_that_does_not_lead_back_is_refused_with_its_error(registry, tmp_path):
    path = parquet(tmp_path / "v1.parquet", vectors(12, seed=4))
    result = import_(registry, "--table", path, "--entity", "item")
    refused(registry, result, "vectors converted to version 0 are off by", "allows 50.0%")


def test_a_table_that_lost_ids_is_refused(registry, tmp_path):
    path = parquet(tmp_path / "v1.parquet", rotated(vectors(8), 12)[:-3])
    result = import_(registry, "--table", path, "--entity", "item")
    refused(registry, result, "lacks 3 of 400 ids of item, such as 'i397'")


def test_a_table_with_other_ids_is_refused(registry, tmp_path):
    ids = pa.array([f"other {n}" for n in range(ROWS)])
    path = parquet(tmp_path / "v1.parquet", rotated(vectors(8), 12), ids)
    result = import_(registry, "--table", path, "--entity", "item")
    refused(registry, result, "have 0 ids in common", "--no-map publishes")


def test_a_contract_is_checked_against_an_import(registry, tmp_path):
    labelled = tmp_path / "ids.csv"
    labelled.write_text("id\n" + "\n".join(f"i{n}" for n in range(50)) + "\n", encoding="utf-8")
    at = ("--registry", registry, "--space", "movies")
    add = ("consumers", "add", "search", *at, "--reads", 0, "--contact", "a@b.org")
    options = ("--metric", "cosine", "--table", labelled, "--tolerance", 0.001)
    assert run(*add, *options).exit_code == 0
    path = parquet(tmp_path / "v1.parquet", rotated(vectors(8), 12, noise=0.1))
    result = import_(registry, "--table", path, "--entity", "item")
    refused(registry, result, "the contract of search on version 0 is broken: cosine 0.9")
    path = parquet(tmp_path / "v1.parquet", rotated(vectors(8), 12))
    answer = imported(registry, "--table", path, "--entity", "item", "--promote", "prod")
    assert [verdict["verdict"] for verdict in answer["contracts"]] == ["pass"]
    assert answer["promoted"] == "prod"


@pytest.fixture
def broken(registry, tmp_path, monkeypatch):
    """The registry; the working folder has files that break their format."""
    monkeypatch.chdir(tmp_path)
    for name in ("text.parquet", "text.arrow", "text.npy", "text.txt"):
        (tmp_path / name).write_text("no table\n", encoding="utf-8")
    np.save("item.npy", vectors(8))
    parquet("twice.parquet", vectors(8), pa.array(["same"] * ROWS))
    parquet("nan.parquet", np.full((ROWS, 8), np.nan))
    return registry


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--table nowhere.parquet", 1, "nowhere.parquet is not there"),
        ("--table text.parquet", 1, "no whole Parquet file"),
        ("--table text.arrow", 1, "no whole Arrow file"),
        ("--table text.npy --ids text.txt", 1, "no NumPy file"),
        ("--table item.npy", 1, "--ids goes with a table *.npy"),
        ("--table item.npy --ids text.txt", 1, "one id for each of the 400 vectors"),
        ("--table item.parquet --entity a --entity b", 2, "expected one --entity for each"),
        ("--table item.parquet --entity shop", 2, "--entity must be one of version 0, item"),
        ("--table twice.parquet --entity item", 1, "twice"),
        ("--table nan.parquet --entity item", 1, "isn't finite"),
    ],
)
def test_a_broken_table_ends_with_one_line_and_nothing_half_written(broken, words, code, message):
    result = import_(broken, *words.split())
    assert result.exit_code == code, result.output
    assert message in result.stderr.splitlines()[-1]
    assert space_of(broken).versions() == [0]
    assert space_of(broken).drafts() == []


def test_imports_and_contracts_work_on_an_object_store(s3, tmp_path, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    registry = s3.bucket()
    imported(registry, "--table", parquet(tmp_path / "item.parquet", vectors(8)))
    at = ("--registry", registry, "--space", "movies")
    table = parquet(tmp_path / "ids.parquet", vectors(8))
    options = ("--metric", "cosine", "--table", table, "--tolerance", 0.001)
    added = run("consumers", "add", "search", *at, "--reads", 0, "--contact", "a@b.org", *options)
    assert added.exit_code == 0, added.output
    bad = parquet(tmp_path / "bad.parquet", rotated(vectors(8), 12, noise=0.1))
    refused(registry, import_(registry, "--table", bad, "--entity", "item"), "contract of search")
    good = parquet(tmp_path / "good.parquet", rotated(vectors(8), 12))
    answer = imported(registry, "--table", good, "--entity", "item", "--promote", "prod")
    assert (answer["version"], answer["promoted"]) == (1, "prod")
    assert space_of(registry).resolve() == 1


def labelled(path, version, *, entity, mark, values=None):
    """A table with the labels of a version of the space `movies`."""
    parquet(path, vectors(8) if values is None else values)
    labels = {
        "backstay.space": "movies",
        "backstay.version": str(version),
        "backstay.entity": entity,
        "backstay.fingerprint": mark * 16,
    }
    pq.write_table(pq.read_table(path).replace_schema_metadata(labels), path)
    return path


def test_tables_of_two_versions_are_not_imported_as_one(tmp_path):
    item = labelled(tmp_path / "item.parquet", 1, entity="item", mark="a")
    user = labelled(tmp_path / "user.parquet", 3, entity="user", mark="b")
    registry = tmp_path / "registry"
    done = import_(registry, "--table", item, "--table", user)
    assert done.exit_code == 1
    assert "fingerprint " + "a" * 16 in done.stderr
    assert "fingerprint " + "b" * 16 in done.stderr
    command = (
        f"`backstay convert --registry {registry} --space movies --from 3 --to 1 --input {user} "
        f"--output {tmp_path}/user-v1`"
    )
    assert command in done.stderr
    assert not registry.exists()
    labelled(user, 1, entity="user", mark="b")  # a fingerprint is of one entity
    assert imported(registry, "--table", item, "--table", user)["version"] == 0


def test_a_folder_with_parts_of_two_builds_is_neither_imported_nor_compared(tmp_path):
    folder = tmp_path / "item"
    folder.mkdir()
    labelled(folder / "part-0.parquet", 2, entity="item", mark="a")
    labelled(folder / "part-1.parquet", 2, entity="item", mark="b")
    other = parquet(tmp_path / "other.parquet", vectors(8))
    for done in (
        import_(tmp_path / "registry", "--table", folder),
        run("compare-tables", folder, other, "--out", tmp_path / "out"),
    ):
        assert done.exit_code == 1
        assert "fingerprint " + "a" * 16 in done.stderr
        assert "fingerprint " + "b" * 16 in done.stderr
        assert "Take the table of the build" in done.stderr


@pytest.mark.parametrize("label", [b"\xff\xfe", b"m\x1b]0;x"])
def test_unprintable_labels_are_refused_and_not_printed(tmp_path, label):
    path = parquet(tmp_path / "item.parquet", vectors(8))
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"backstay.space": label}), path)
    done = import_(tmp_path / "registry", "--table", path)
    assert done.exit_code == 1
    assert "not UTF-8 or not printable" in done.stderr
    assert "\x1b" not in done.stderr
    assert not (tmp_path / "registry").exists()
