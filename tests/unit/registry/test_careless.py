"""Mistakes with a registry, through the command line: one clear line, and nothing is changed."""

import json
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from backstay.cli import main
from backstay.evaluation.contracts.labelled import Labelled
from backstay.registry.verify import verify
from tests.support.builders import vector_column
from tests.support.deltas import DIM, vectors, write
from tests.support.processes import environment, start_python

ROWS = 400
IDS = pa.array([f"i{n}" for n in range(ROWS)])


@pytest.fixture
def space(local_space, tmp_path, monkeypatch):
    """Three versions whose maps are exact; tables and labelled ids in the working folder."""
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        write(local_space, IDS, vectors(ROWS), batch=ROWS, mapped=True)
    pq.write_table(pa.table({"id": IDS[:50]}), "ids.parquet")
    _save("wide.parquet", np.hstack([vectors(ROWS), vectors(ROWS, seed=1)]))
    return local_space


def _save(path, values):
    pq.write_table(pa.table({"id": IDS[: len(values)], "embedding": vector_column(values)}), path)
    return path


def run(space, words):
    where = {"S": f"--registry {space.uri} --space movies", "R": f"--registry {space.uri}"}
    return CliRunner().invoke(main, words.format(**where).split())


def files_of(space):
    return {name: space.files.read(name) for name in space.files.find("") if ".tmp" not in name}


COSINE = "--contact a@b.org --metric cosine --table ids.parquet"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("consumers add x {S} --reads 0 --contact a@b.org --table no.csv --metric cosine", 2,
         "'no.csv' does not exist"),
        ("consumers add ../x {S} --reads 0 " + COSINE, 2, "can't name a consumer"),
        ("consumers add x {S} --reads 0 --contact= ", 2, "--contact must name whom to ask"),
        ("consumers check {S} 9", 1, "has no version 9; published are [0, 1, 2]"),
        ("consumers remove nobody {S}", 1, "no contract of a consumer nobody"),
        ("promote 9 {S}", 1, "movies has no version 9; published are [0, 1, 2]"),
        ("promote 1 {S} --alias latest", 2, "alias must be a name such as prod; found latest"),
        ("promote 1 {S} --alias 7", 2, "alias must be a name such as prod; found 7"),
        ("promote prod {S}", 2, "expected the number of a version, found prod"),
        ("rollback {S}", 1, "has no alias prod (aliases: none)"),
        ("retire 9 {S}", 1, "has no version 9"),
        ("retire 2 {S}", 1, "it is the latest"),
        ("compact 9 {S}", 1, "has no version 9"),
        ("import {S} --table no.parquet --entity item", 1, "no.parquet is not there"),
        ("import {S} --table wide.parquet --entity film", 2, "--entity must be one of version 2"),
        ("import {S} --table wide.parquet --entity item --id-type int64", 1,
         "row 0: --id-type int64 expects an id such as 17"),
        ("convert {S} --from 2 --to 0 --input wide.parquet --assume-version 2 --output out", 1,
         "6"),
        ("tokens revoke nothing {R}", 1, "there is no token nothing"),
        ("tokens list --registry no-such-folder", 1, "found no folder no-such-folder"),
        ("tokens revoke abc --registry no-such-folder", 1, "found no folder no-such-folder"),
        ("gc --registry no-such-folder", 1, "found no folder no-such-folder"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_changes_nothing(space, tmp_path, words, code, message):
    # A mistake is found before contracts are checked, which may take long.
    assert run(space, "consumers add ads {S} --reads 0 " + COSINE).exit_code == 0
    before = files_of(space)
    done = run(space, words)
    assert done.exit_code == code, done.output
    assert message in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert files_of(space) == before
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "no-such-folder").exists()


def test_a_version_that_a_consumer_reads_is_not_retired_even_by_force(space):
    write(space, IDS[:-1], vectors(ROWS)[:-1], batch=ROWS, mapped=True)
    assert run(space, "consumers add ads {S} --reads 1 " + COSINE).exit_code == 0
    before = files_of(space)
    for words in ("retire 2 {S}", "retire 2 {S} --force"):
        done = run(space, words)
        assert done.exit_code == 1
        assert "is still read by consumer ads (version 1)" in done.stderr
        assert "1 of its 400 ids, such as 'i399'" in done.stderr
        assert "backstay consumers remove" in done.stderr
    assert files_of(space) == before


def test_a_version_of_a_newer_format_is_refused_by_name_and_the_others_work(space):
    path = space.path(1, "manifest.json")
    raw = {**json.loads(space.files.read(path)), "format": 99}
    space.files.write(path, json.dumps(raw).encode())
    before = files_of(space)
    verbs = ("show 1", "retire 1", "promote 1", "compact 1")
    steps = ("--from 1 --to 0", "--from 2 --to 1", "--from 2 --to 0")
    converts = [f"convert {step} --output out" for step in steps]
    for words in (f"{words} {{S}}" for words in (*verbs, *converts)):
        done = run(space, words)
        assert done.exit_code == 1, words
        line = done.stderr.splitlines()[-1]
        assert "versions/1/manifest.json has format 99; this Backstay reads up to" in line
        assert line.endswith("Upgrade it.")
        assert done.stdout == ""
    assert files_of(space) == before
    for words in ("show 0 {S}", "show 2 {S}", "versions {S}", "promote 2 {S}", "gc {R}"):
        done = run(space, words)
        assert done.exit_code == 0, done.output


def test_two_imports_at_once_publish_one_version_each(space):
    paths = [_save(f"{seed}.parquet", vectors(ROWS) @ _rotation(seed)) for seed in range(2)]
    words = ("import", "--registry", space.uri, "--space", "movies", "--entity", "item", "--json")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        start_python("-m", "backstay", *words, "--table", path, env=environment(), **pipes)
        for path in paths
    ]
    published = []
    for process, path in zip(processes, paths, strict=True):
        out, errors = process.communicate(timeout=300)
        if process.returncode:
            assert process.returncode == 1, errors
            assert "repeat the command" in errors.splitlines()[-1], errors
            done = run(space, f"import {{S}} --entity item --json --table {path}")
            assert done.exit_code == 0, done.output
            out = done.stdout
        published.append(json.loads(out)["version"])
    assert sorted(published) == [3, 4]
    assert space.drafts() == []
    assert [verify(space, version) for version in (3, 4)] == [[], []]


def _rotation(seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(DIM, DIM)))[0].astype(np.float32)


def test_an_import_that_is_interrupted_twice_leaves_nothing_and_then_succeeds(space):
    path = _save("newer.parquet", vectors(ROWS) @ _rotation(5))
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "from backstay.cli import main\n"
        "from backstay.registry.draft import Draft\n"
        "method = getattr(Draft, sys.argv.pop(1))\n"
        "def interrupted(self, *args, **kwargs):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return method(self, *args, **kwargs)\n"
        "setattr(Draft, method.__name__, interrupted)\n"
        "main()\n"
    )
    words = ("import", "--registry", space.uri, "--space", "movies", "--entity", "item")
    for method in ("write_metrics", "publish"):
        done = start_python(
            *("-c", script, method, *words, "--table", path),
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        _, errors = done.communicate(timeout=300)
        assert done.returncode == 130, errors
        assert errors.splitlines()[-1] == "Error: interrupted"
        assert space.versions() == [0, 1, 2]
        assert space.drafts() == []
    done = run(space, f"import {{S}} --entity item --table {path} --json")
    assert json.loads(done.stdout)["version"] == 3


def test_labelled_ids_are_not_held_by_a_thread_that_outlives_the_interpreter():
    data = Labelled(ids={"item": IDS}, labels=np.ones(ROWS), reference=vectors(ROWS)).to_bytes()
    script = (
        "import os, sys\n"
        "from backstay.evaluation.contracts.labelled import Labelled\n"
        "data = sys.stdin.buffer.read()\n"
        "for _ in range(30):\n"
        "    if not (pid := os.fork()):\n"
        "        Labelled.from_bytes(bytes(data))\n"
        "        sys.exit()\n"
        "    status = os.waitpid(pid, 0)[1]\n"
        "    assert status == 0, status\n"
    )
    done = start_python(
        "-c", script, env=environment(), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, errors = done.communicate(data, timeout=300)
    assert done.returncode == 0, errors.decode()
