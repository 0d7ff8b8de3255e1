"""`backstay lookup`, as a careless stranger uses it."""

import csv
import io
import json
import logging
import os
import signal
import socket
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from backstay.cli import lookup as command
from backstay.cli import main
from backstay.engines.conversion.config import ConvertConfig
from backstay.engines.conversion.convert import convert
from tests.support.processes import start_python
from tests.support.served import ITEMS, SPACE, USERS, slowly


@pytest.fixture
def look_up(url):
    def run(*words, stdin=None, entity="user"):
        words = ["lookup", "--url", url, "--space", SPACE, "--entity", entity, *map(str, words)]
        return CliRunner().invoke(main, words, input=stdin)

    return run


def close_to(entity, ids, *, version=2):
    return pytest.approx(slowly(entity, ids, version=version, source=2), rel=1e-5, abs=1e-5)


def test_arguments_to_json(look_up):
    done = look_up("--json", "--version", "0", "--", 5, -7, 40)
    assert (done.exit_code, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["ids"], answer["missing"]) == ([5, -7, 40], [])
    assert (answer["version"], answer["source_version"]) == (0, 2)
    assert np.array(answer["embeddings"]) == close_to("user", [5, -7, 40], version=0)
    assert look_up("--format", "json", "--version", "0", "--", 5, -7, 40).stdout == done.stdout


def test_people_get_a_table(look_up):
    done = look_up(5, 40)
    assert done.exit_code == 0
    for shown in ("fingerprint", "version", "embedding", "40"):
        assert shown in done.stdout


def test_stdin_to_csv(look_up):
    done = look_up(
        "-", "--format", "csv", "--missing", "skip", entity="item",
        stdin="\ufefftt1\r\n\na/b\nnope\né ü\n",
    )  # fmt: skip
    assert done.exit_code == 0
    header, *rows = csv.reader(io.StringIO(done.stdout))
    assert header == ["id", *(f"e{i}" for i in range(6))]
    assert [row[0] for row in rows] == ["tt1", "a/b", "é ü"]
    values = np.array([row[1:] for row in rows], float)
    assert values == close_to("item", ["tt1", "a/b", "é ü"])


def write(path, ids):
    match path.suffix:
        case ".txt":
            path.write_text("\n".join(map(str, ids)), encoding="utf-8")
        case ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([["n", "id"], *enumerate(ids)])
        case ".parquet":
            pq.write_table(pa.table({"n": range(len(ids)), "id": ids}), path)
        case ".npy":
            np.save(path, np.array(ids))


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet", ".npy"])
@pytest.mark.parametrize("entity", ["user", "item"])
def test_every_kind_of_file(look_up, tmp_path, suffix, entity):
    ids = USERS.tolist() if entity == "user" else [id_ for id_ in ITEMS if id_.strip() == id_ != ""]
    path = tmp_path / f"ids{suffix}"
    write(path, ids)
    done = look_up("--ids-from", path, "--json", entity=entity)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["ids"] == ids


def test_ids_of_csv_keep_every_character(look_up, tmp_path):
    ids = [id_ for id_ in ITEMS if id_]
    write(tmp_path / "ids.csv", ids)
    done = look_up("--ids-from", tmp_path / "ids.csv", "--json", entity="item")
    assert json.loads(done.stdout)["ids"] == ids


@pytest.mark.parametrize("suffix", [".json", ".csv", ".npy", ".parquet"])
def test_every_kind_of_output(look_up, tmp_path, suffix):
    out = tmp_path / "new" / f"vectors{suffix}"
    done = look_up(5, 40, "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["dim"], summary["out"]) == (2, 6, str(out))
    match suffix:
        case ".json":
            found = json.loads(out.read_text())["embeddings"]
        case ".csv":
            found = [row[1:] for row in csv.reader(out.read_text().splitlines()[1:])]
        case ".npy":
            found = np.load(out)
        case ".parquet":
            found = pq.read_table(out)["embedding"].to_pylist()
    assert np.array(found, float) == close_to("user", [5, 40])
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_parquet_is_labelled_and_convert_takes_it(look_up, registry, tmp_path):
    out = tmp_path / "user.parquet"
    assert look_up(5, 40, "--out", out).exit_code == 0
    labels = pq.read_schema(out).metadata
    fingerprint = registry.space(SPACE).manifest(2).fingerprint("user")
    assert labels[b"backstay.fingerprint"].decode() == fingerprint
    convert(
        ConvertConfig(
            registry=str(registry.uri), space=SPACE, source=2, targets=(0,), input=str(out),
            output=str(tmp_path / "old"),
        )
    )  # fmt: skip
    assert pq.read_table(tmp_path / "old").num_rows == 2


def test_long_lists_report_progress_on_stderr(look_up, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "_SECONDS_BETWEEN", 0.0)
    write(tmp_path / "ids.npy", np.tile(USERS, 10))
    done = look_up("--ids-from", tmp_path / "ids.npy", "--batch", 20, "--json")
    assert len(json.loads(done.stdout)["ids"]) == 60
    assert "40 of 60 ids looked up" in done.stderr
    assert logging.getLogger("backstay.lookup").handlers == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "--ids-from; found neither"),
        ([5, "--ids-from", "{ids}"], 2, "found both"),
        (["-", 5], 2, "no further ids"),
        ([-7], 2, "must stand after '--'"),
        (["--vresion", 5], 2, "--vresion"),
        (["x"], 2, "must be integers, like the table's; found 'x'"),
        (["9" * 25], 2, "within 64 bits"),
        ([5, "--out", "vectors.foo"], 2, "--out must end in .json, .csv, .npy, .parquet"),
        ([5, "--out", "{folder}"], 2, "is a directory"),
        ([5, "--out", "{ids}/vectors.csv"], 1, "{ids}"),
        ([5, "--out", "v.npy", "--missing", "skip"], 2, "which vector is whose"),
        ([5, "--json", "--format", "csv"], 2, "exclude each other"),
        ([5, "--url", "localhost"], 2, "--url must be like http"),
        ([5, "--token", "é"], 2, "--token must be printable ASCII."),
        ([5, "--version", "9"], 1, "versions 0 to 2; found 9"),
        ([5, "--expect", "f" * 16], 1, "expected vectors with the fingerprint ffff"),
        ([5, "--space", "books"], 1, "no space 'books'"),
        ([5, "--entity", "itm"], 1, "no entity 'itm'"),
        ([5, "--id-type", "string"], 1, "integers; found '5'"),
        ([5, 41], 1, "41. Check these ids, or leave them out with --missing skip"),
        (["--ids-from", "{ids}", "--id-column", "film"], 1, "no column 'film'; it has 'n', 'id'"),
        (["--ids-from", "{folder}/none.csv"], 2, "does not exist"),
    ],
    ids=str,
)
def test_mistakes_are_one_clear_error(look_up, tmp_path, words, code, says):
    names = {"folder": tmp_path, "ids": tmp_path / "ids.csv"}
    write(names["ids"], [5])
    done = look_up(*(str(word).format(**names) for word in words))
    assert done.exit_code == code, done.output
    assert says.format(**names) in done.stderr
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["ids.csv"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("ids.txt", b"tt1\n\xff\n", "must be UTF-8"),
        ("ids.dat", b"1\n", "must end in .txt, .csv, .parquet, .npy; found '.dat'"),
        ("ids", b"1\n", "found 'no suffix'"),
        ("ids.csv", b"", "must be CSV with a header"),
        ("ids.csv", b"id,n\n1\n", "must be CSV with a header"),
        ("ids.csv", b"1\n2\n", "no column 'id'; it has '1'"),
        ("ids.parquet", b"PAR1", "must be a Parquet file"),
        ("ids.npy", b"5", "in NumPy's format"),
    ],
)
def test_damaged_files_are_refused(look_up, tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    done = look_up("--ids-from", path)
    assert done.exit_code in {1, 2}
    assert says in done.stderr


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([1, None], "1 nulls"),
        ([1.5], "found double"),
        (pa.array([2**63], pa.uint64()), "within 64 bits"),
    ],
    ids=str,
)
def test_columns_that_are_no_ids_are_refused(look_up, tmp_path, ids, says):
    pq.write_table(pa.table({"id": ids}), tmp_path / "ids.parquet")
    done = look_up("--ids-from", tmp_path / "ids.parquet")
    assert done.exit_code == 1
    assert says in done.stderr


@pytest.mark.parametrize("ids", [np.zeros((2, 2), int), np.zeros(2)], ids=str)
def test_arrays_that_are_no_ids_are_refused(look_up, tmp_path, ids):
    np.save(tmp_path / "ids.npy", ids)
    done = look_up("--ids-from", tmp_path / "ids.npy")
    assert done.exit_code == 1
    assert "one dimension of integers or strings" in done.stderr


def test_no_ids_on_stdin_give_no_rows(look_up, tmp_path):
    for name in ("none.parquet", "none.npy", "none.csv"):
        assert look_up("-", "--out", tmp_path / name, stdin="\n").exit_code == 0
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    assert np.load(tmp_path / "none.npy").shape == (0, 6)


def test_a_failure_leaves_the_old_file(look_up, tmp_path):
    out = tmp_path / "vectors.csv"
    out.write_text("old")
    assert look_up(5, 41, "--out", out).exit_code == 1
    assert out.read_text() == "old"
    assert look_up(5, "--out", out).exit_code == 0
    assert out.read_text().startswith('"id","e0"')


def test_a_link_is_followed_and_a_pipe_is_written_to(look_up, tmp_path):
    target, link, pipe = (tmp_path / name for name in ("target.npy", "link.npy", "pipe.npy"))
    target.touch()
    link.symlink_to(target)
    assert look_up(5, "--out", link).exit_code == 0
    assert link.is_symlink()
    assert np.load(target).shape == (1, 6)
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    done = look_up(5, "--out", pipe)
    reader.join()
    assert done.exit_code == 0, done.stderr
    assert pipe.is_fifo()
    assert received == [target.read_bytes()]


def test_a_token_comes_from_the_environment_and_is_never_printed(look_up, monkeypatch):
    monkeypatch.setenv("BACKSTAY_TOKEN", "sécret")
    done = look_up(5)
    assert done.exit_code == 2
    assert "sécret" not in done.output


def test_ctrl_c_leaves_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = start_python(
            "-c",
            # A shell that runs the tests in the background makes them ignore SIGINT.
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from backstay.cli import main; main()",
            *("lookup", "--url", url, "--space", "s", "--entity", "e", "1"),
            *("--out", tmp_path / "vectors.csv"),
        )
        try:
            silent.settimeout(60)
            connection, _ = silent.accept()
            with connection:  # the command waits for an answer now
                assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=60) == 130
        finally:
            process.kill()
            process.wait()
    assert list(tmp_path.iterdir()) == []
