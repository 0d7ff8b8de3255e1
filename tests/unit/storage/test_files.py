"""Exclusive creation, which publishing stands on, and files that fail half-way."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from backstay.errors import RegistryError
from backstay.storage.files import Files, open_files


class ObjectStore(MemoryFileSystem):
    """Memory that calls itself S3 and has conditional puts."""

    protocol = "s3"
    cachable = False

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if mode == "create" and self.exists(path):
            raise FileExistsError(path)
        super().pipe_file(path, value, **kwargs)


@pytest.fixture
def store(tmp_path):
    files = Files(ObjectStore(), f"/{tmp_path.name}")
    yield files
    files.remove("")


@pytest.fixture(params=["folder", "memory", "store"])
def files(request, tmp_path, store):
    if request.param == "folder":
        yield open_files(tmp_path / "root")
    elif request.param == "memory":
        files = open_files(f"memory://{tmp_path.name}-memory")
        yield files
        files.remove("")
    else:
        yield store


def test_a_file_is_created_once(files):
    assert files.create("a/b.json", b"first")
    assert not files.create("a/b.json", b"second")
    assert files.read("a/b.json") == b"first"
    assert files.find("a") == {"b.json": 5}


def test_creating_again_what_one_has_created_counts_as_created(files):
    """The answer to a request may be lost, and the request sent again."""
    assert files.create("a", b"mine")
    assert files.create("a", b"mine")


def test_local_creation_does_not_rest_on_looking_first(tmp_path, monkeypatch):
    files = open_files(tmp_path)
    files.create("a", b"first")
    for blind in ("exists", "is_file", "lexists"):
        monkeypatch.setattr(os.path, blind, lambda _: False, raising=False)
        monkeypatch.setattr(Path, blind, lambda _: False, raising=False)
    assert not files.create("a", b"second")
    assert files.read("a") == b"first"


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_of_many_threads_one_creates(kind, tmp_path):
    files = open_files(tmp_path if kind == "folder" else f"memory://{tmp_path.name}-threads")
    barrier = threading.Barrier(8)

    def attempt(n):
        won = []
        for turn in range(20):
            barrier.wait(timeout=60)
            won.append(files.create(f"{turn}", str(n).encode()))
        return won

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(attempt, range(8)))
    for turn, wins in enumerate(zip(*results, strict=True)):
        assert sum(wins) == 1
        assert int(files.read(f"{turn}")) == wins.index(True)
    files.remove("")


def test_a_store_that_overwrites_is_found_out_before_it_does(store, monkeypatch):
    store.write("claim", b"theirs")
    monkeypatch.setattr(
        ObjectStore, "pipe_file", lambda self, *args, **_: MemoryFileSystem.pipe_file(self, *args)
    )
    with pytest.raises(RegistryError, match=r"this one overwrote it\. Upgrade"):
        store.create("claim", b"mine")
    assert store.read("claim") == b"theirs"
    assert store.find("") == {"claim": 6}


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_a_file_that_fails_half_way_leaves_nothing(files, error):
    def write():
        with files.writer("a/b") as sink:
            sink.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert files.find("") == {}


def test_what_is_placed_stays_where_it_was(files):
    files.write("staged", b"new")
    files.write("a/there", b"old")
    files.place("staged", "a/there")
    assert files.read("a/there") == files.read("staged") == b"new"


def test_removing_what_is_not_there_is_fine(files):
    files.remove("nothing/here")
    with pytest.raises(FileNotFoundError):
        files.read("nothing/here")


def test_an_unknown_protocol_is_refused_with_the_expected_ones():
    with pytest.raises(RegistryError, match="Expected a folder or an fsspec URL"):
        open_files("gopher://hole")
