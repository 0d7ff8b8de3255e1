"""Importing outside tables as versions, through the command line."""

import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pyarrow import feather

from backstay.cli import main
from backstay.engines import import_map
from backstay.evaluation.table_maps import outside_tables
from backstay.registry import spool, table_writer
from backstay.registry.store import Registry
from backstay.registry.stored import deltas
from backstay.registry.verify import verify
from backstay.storage import keys

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


@pytest.fixture
def small_pieces(monkeypatch):
    """Rows are read, sorted and written 4,096 at a time."""
    monkeypatch.setattr(outside_tables, "BATCH_BYTES", 8 * 4 * 4096)
    monkeypatch.setattr(outside_tables, "_ID_ROWS", 4096)
    monkeypatch.setattr(table_writer, "GROUP_BYTES", 4 * 4 * 4096)
    monkeypatch.setattr(spool, "BATCH_ROWS", 4096)
    monkeypatch.setattr(keys, "KEYS_AT_ONCE", 4096)
    monkeypatch.setattr(keys, "_CHUNK_ROWS", 4096)
    monkeypatch.setattr(import_map, "FITTED", 1000)


def peak_of_imports(folder, rows):
    """Most bytes that NumPy, Python and Arrow held while each of three tables was imported."""
    folder.mkdir()
    ids = pa.array([f"a name about as long as names are, with the number {n}" for n in range(rows)])
    order = np.random.default_rng(6).permutation(rows)
    older = vectors(4, rows=rows)
    newer = older.copy()
    newer[:5] += 1
    shuffled = ids.take(pa.array(order))
    paths = [
        parquet(folder / "0.parquet", older, ids),
        parquet(folder / "1.parquet", newer[order], shuffled),
        parquet(folder / "2.parquet", rotated(newer, 6)[order], shuffled),
    ]
    del ids, order, older, newer, shuffled
    default, peaks, pools = pa.default_memory_pool(), [], []  # a pool outlives its buffers
    for path in paths:
        pool = pa.proxy_memory_pool(default)
        pools.append(pool)
        pa.set_memory_pool(pool)
        tracemalloc.start()
        try:
            imported(folder / "registry", "--table", path, "--entity", "item")
            peaks.append(tracemalloc.get_traced_memory()[1] + pool.max_memory())
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(default)
    space = space_of(folder / "registry")
    assert [list(deltas(space, space.manifest(version))) for version in (1, 2)] == [["item"], []]
    assert verify(space, 1) == verify(space, 2) == []
    return max(peaks)


@pytest.mark.usefixtures("small_pieces")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    few = peak_of_imports(tmp_path / "few", 150_000)
    assert peak_of_imports(tmp_path / "many", 300_000) < few + 8 * 150_000  # the least: a key a row


def test_ids_are_stored_as_the_type_that_the_user_names(tmp_path):
    values = vectors(8)
    numbers, texts = (
        parquet(tmp_path / f"{name}.parquet", values, ids)
        for name, ids in (
            ("numbers", pa.array(range(ROWS))),
            ("texts", pa.array([str(n) for n in range(ROWS)])),
        )
    )
    np.save(tmp_path / "item.npy", values)
    (tmp_path / "ids.txt").write_text("\n".join(map(str, range(ROWS))), encoding="utf-8")
    lines = (tmp_path / "item.npy", "--ids", tmp_path / "ids.txt")
    for name, words, id_type in (
        ("a", (texts,), "int64"),
        ("b", lines, "int64"),
        ("c", (numbers,), "string"),
        ("d", (numbers,), "int64"),
    ):
        options = ("--table", *words, "--entity", "item", "--id-type", id_type)
        imported(tmp_path / name, *options)
        ids, _ = space_of(tmp_path / name).table(0, "item").read()
        assert ids.to_pylist() == [str(n) if id_type == "string" else n for n in range(ROWS)]
    newer = parquet(
        tmp_path / "newer.parquet", rotated(values, 12), pa.array([str(n) for n in range(ROWS)])
    )
    options = ("--table", newer, "--entity", "item")
    refused(
        tmp_path / "a", import_(tmp_path / "a", *options), "found string ids", "--id-type int64"
    )
    forced = import_(tmp_path / "a", *options, "--no-map")
    refused(tmp_path / "a", forced, "all 400 ids of item (int64 there, string here)")
    assert (
        imported(tmp_path / "a", *options, "--id-type", "int64")["metrics"]["map"]["cosine"] > 0.99
    )


def test_each_table_may_have_its_own_type_of_ids(tmp_path):
    texts = pa.array([str(n) for n in range(ROWS)])
    words = []
    for entity in ("user", "item"):
        words += ["--table", parquet(tmp_path / f"{entity}.parquet", vectors(8), texts)]
    options = (*words, "--id-type", "int64", "--id-type", "string")
    imported(tmp_path / "registry", *options)
    space = space_of(tmp_path / "registry")
    assert [space.table(0, name).id_type for name in ("user", "item")] == ["int64", "string"]
    wrong = import_(tmp_path / "other", *options, "--id-type", "string")
    assert wrong.exit_code == 2
    assert "--id-type once, or once for each of the 2 tables; found 3" in wrong.stderr


@pytest.mark.parametrize("id_", ["007", "+7", " 7", "7.0", "", "sieben", "-0", "9" * 30])
def test_an_id_that_is_no_plain_integer_is_named_with_its_row(tmp_path, id_):
    ids = [str(n) for n in range(ROWS)]
    ids[300] = id_
    path = parquet(tmp_path / "item.parquet", vectors(8), pa.array(ids))
    done = import_(tmp_path / "registry", "--table", path, "--id-type", "int64")
    assert done.exit_code == 1
    line = done.stderr.splitlines()[-1]
    assert "item.parquet" in line
    assert id_ in line
    if len(id_) < 30:
        assert "row 300: --id-type int64 expects an id such as 17" in line
    assert not Registry(tmp_path / "registry").spaces()
