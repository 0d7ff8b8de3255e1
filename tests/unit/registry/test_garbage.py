"""gc removes what nobody will read again, and nothing that a manifest names."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from click.testing import CliRunner

from backstay.cli import main
from backstay.registry.claims import Claim
from backstay.registry.garbage import find_garbage, remove_garbage
from backstay.registry.store import Registry
from backstay.registry.verify import verify
from backstay.storage.documents import seal
from backstay.storage.processes import this_process
from tests.support.builders import fill, publish, stage

NOW, LATER = timedelta(0), timedelta(days=1)


@pytest.fixture
def untidy(registry, monkeypatch, tmp_path):
    """Two spaces with something of every kind of garbage, all of it just written."""
    from backstay.registry import staging  # noqa: PLC0415

    movies, books = registry.space("movies"), registry.space("books")
    fill(movies, 3, 4)
    fill(books, 3)
    elsewhere = replace(this_process(), host="elsewhere")
    with monkeypatch.context() as patch:
        patch.setattr(staging, "this_process", lambda: elsewhere)
        stage(movies.draft(1, run_id="run-1"))  # of a run that has published
        stage(movies.draft(2, run_id="lost"))
    files = registry.files
    files.write(".tmp/left", b"half")
    files.write("movies/versions/2/model.safetensors", b"of a dead attempt")
    dead = Claim(run_id="lost", time="then", nonce="old", **vars(elsewhere))
    files.write("movies/versions/2/claim.json", seal(vars(dead), what="a claim"))
    for run in ("run-0", "unfinished"):
        files.write(f"movies/runs/{run}/checkpoint", b"weights")
    for space in ("movies", "dropped"):
        (tmp_path / "cache" / space / "item").mkdir(parents=True)
        (tmp_path / "cache" / space / "item" / "vectors.npy").write_bytes(b"copy")
    return registry


def _found(registry, tmp_path, older_than):
    return find_garbage(registry, older_than=older_than, cache=tmp_path / "cache")


def _names(found):
    return sorted((g.kind, g.why.split(" since")[0].split(" on ")[0]) for g in found)


FINISHED = [
    ("cache", "there is no space dropped any more"),
    ("run", "run run-0 has published its version"),
    ("staging", "run run-1 has published version 1"),
]
ABANDONED = [
    ("attempt", "nobody has gone"),
    ("run", "run unfinished has saved no checkpoint"),
    ("staging", "run lost has staged nothing"),
    ("temporary", "a writer left it half-written"),
]


def test_only_what_is_finished_or_old_is_garbage(untidy, tmp_path):
    assert _names(_found(untidy, tmp_path, LATER)) == FINISHED
    assert _names(_found(untidy, tmp_path, -timedelta(minutes=1))) == sorted(FINISHED + ABANDONED)


def test_nothing_that_a_manifest_names_is_removed(untidy, tmp_path):
    named = [f"{s}/versions/{k}" for s, k in (("movies", 0), ("movies", 1), ("books", 0))]
    before = {path: untidy.files.find(path) for path in named}
    found = _found(untidy, tmp_path, -timedelta(minutes=1))
    freed = remove_garbage(untidy, found)
    assert freed == sum(g.size for g in found) > 0
    assert {path: untidy.files.find(path) for path in named} == before
    assert "model.safetensors" not in untidy.files.find("movies/versions/2")
    for name in ("movies", "books"):
        space = untidy.space(name)
        assert [verify(space, k) for k in space.versions()] == [[]] * len(space.versions())
    assert _found(untidy, tmp_path, -timedelta(minutes=1)) == []
    assert not untidy.files.find("movies/staging")
    assert (tmp_path / "cache" / "movies" / "item" / "vectors.npy").exists()
    fill(untidy.space("movies"), 5)
    assert verify(untidy.space("movies"), 2) == []


def test_a_claim_of_another_host_is_released_once_it_is_old(registry, tmp_path):
    space = registry.space("movies")
    fill(space, 3)
    dead = Claim(
        run_id="lost", time="then", nonce="old", **vars(replace(this_process(), host="elsewhere"))
    )
    space.files.write(space.path(1, "claim.json"), seal(vars(dead), what="a claim"))
    assert _found(registry, tmp_path, LATER) == []
    remove_garbage(registry, _found(registry, tmp_path, -timedelta(minutes=1)))
    assert space.claim(1) is None
    fill(space, 4)
    assert verify(space, 1) == []


def test_an_attempt_that_somebody_goes_on_with_meanwhile_stays(untidy, tmp_path):
    found = _found(untidy, tmp_path, -timedelta(minutes=1))
    space = untidy.space("movies")
    space.release_claim(2)
    draft = space.draft(2, run_id="another")
    stage(draft, dim=5, previous_dim=4)
    publish(draft)
    remove_garbage(untidy, found)
    assert verify(space, 2) == []


def test_the_staging_of_a_living_process_stays(registry, monkeypatch, tmp_path):
    import os  # noqa: PLC0415

    from backstay.registry import staging  # noqa: PLC0415
    from backstay.storage.processes import started  # noqa: PLC0415

    parent = replace(this_process(), pid=os.getppid(), started=started(os.getppid()))
    monkeypatch.setattr(staging, "this_process", lambda: parent)
    stage(registry.space("movies").draft(0, run_id="r"))
    assert _found(registry, tmp_path, -timedelta(days=9)) == []


def test_the_command_lists_first_and_removes_with_yes(local_space, tmp_path):
    fill(local_space, 3)
    draft = local_space.draft(1, run_id="r")
    stage(draft)
    publish(draft)
    local_space.files.write("movies/runs/r/checkpoint", b"12345")

    def run(*more):
        where = ["--registry", str(tmp_path / "registry"), "--cache", str(tmp_path / "cache")]
        return json.loads(CliRunner().invoke(main, ["gc", *where, "--json", *more]).stdout)

    told = run()
    assert (told["bytes"], told["removed"], told["freed"]) == (5, False, 0)
    assert told["next"] == "repeat the command with --yes"
    assert local_space.files.exists("movies/runs/r/checkpoint")
    assert run("--yes")["freed"] == 5
    assert run()["found"] == []
    assert verify(Registry(tmp_path / "registry").space("movies"), 1) == []
