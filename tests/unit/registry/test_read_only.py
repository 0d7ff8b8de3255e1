"""A registry on a read-only disk: commands that only read succeed, others fail in one line."""

import errno
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from backstay.cli import main
from backstay.registry import contracts
from backstay.registry.aliases import promote
from backstay.registry.retirement import retire
from backstay.registry.tokens import create
from backstay.storage.files import LocalFiles
from tests.support.builders import contract, vector_column
from tests.support.deltas import edited, read, vectors, write

FAILS = "Read-only file system"


@pytest.fixture
def space(local_space, monkeypatch, tmp_path):
    """Version 0 is retired, 1 and 2 are whole, 3 is a delta of 2, prod has moved from 2 to 3."""
    ids = pa.array([f"i{n}" for n in range(400)])
    for seed in range(3):
        write(local_space, ids, vectors(400, seed=seed), batch=400, mapped=True)
    write(local_space, *edited(ids, vectors(400, seed=2), changed=(3,)), base=2, mapped=True)
    retire(local_space, 0)
    promote(local_space, 2)
    promote(local_space, 3)
    contracts.write(local_space, contract("ads", version=2), {})
    create(local_space.files, "ads")
    local_space.files.write(".tmp/left", b"of a killed writer")
    os.utime(tmp_path / "registry" / ".tmp" / "left", (0, 0))
    pq.write_table(
        pa.table({"id": ids, "embedding": vector_column(vectors(400, seed=2)[:, ::-1])}),
        tmp_path / "item.parquet",
    )

    def refused(method):
        def refuse(self, path, *args, **kwargs):
            if self.root == local_space.files.root:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            return method(self, path, *args, **kwargs)

        return refuse

    for name in ("_temporary", "writer", "place", "remove"):
        monkeypatch.setattr(LocalFiles, name, refused(getattr(LocalFiles, name)))
    return local_space


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("retire 0 {S}", 0, "was retired already"),
        ("retire 1 {S}", 1, FAILS),
        ("promote 3 {S}", 0, ""),  # it points there already
        ("promote 2 {S}", 1, FAILS),
        ("rollback {S}", 1, FAILS),
        ("gc {R}", 0, ""),
        ("gc {R} --yes", 1, FAILS),
        ("compact 3 {S} --dry-run", 0, ""),
        ("compact 3 {S}", 1, FAILS),
        ("compact 2 {S}", 0, ""),  # it is whole already
        ("import {S} --table {D}/item.parquet --entity item", 1, FAILS),
        ("convert {S} --from 3 --to 2 --output {D}/out", 0, ""),
        ("consumers add rank {S} --reads 2 --contact a@b.org", 1, FAILS),
        ("consumers check {S}", 0, ""),
        ("consumers remove ads {S}", 1, FAILS),
        ("tokens list {R}", 0, ""),
        ("tokens add rank {R}", 1, FAILS),
        ("versions {S}", 0, ""),
        ("show 3 {S}", 0, ""),
        ("verify {S}", 0, ""),
    ],
)
def test_a_command_on_a_read_only_registry(space, tmp_path, words, code, message):
    before = {file: file.read_bytes() for file in _files(tmp_path / "registry")}
    names = {"R": f"--registry {space.uri}", "S": f"--registry {space.uri} --space movies"}
    done = CliRunner().invoke(main, words.format(**names, D=tmp_path).split())
    assert done.exit_code == code, done.output
    assert message in (done.stderr.splitlines() or [""])[-1]
    assert "could not be renewed" not in done.stderr
    if code:
        assert done.stdout == ""
        assert done.stderr.splitlines()[-1].startswith("Error: ")
        assert "or mount this one for writing" in done.stderr
    assert {file: file.read_bytes() for file in _files(tmp_path / "registry")} == before
    assert len(read(space.table(3, "item"))) == 400


def _files(folder):
    return [file for file in folder.rglob("*") if file.is_file()]
