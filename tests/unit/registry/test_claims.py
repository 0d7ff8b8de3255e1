"""Who publishes a version: claims, take-overs, commits, and the staging that goes with them."""

import contextlib
import os
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from backstay.errors import NotFoundError, RegistryError, VersionExistsError
from backstay.registry.claims import Claim, Claims
from backstay.registry.garbage import find_garbage, remove_garbage
from backstay.registry.staging import StagedFiles
from backstay.registry.store import Space
from backstay.registry.verify import verify
from backstay.storage.documents import seal
from backstay.storage.processes import this_process
from tests.support.builders import publish, stage


@pytest.fixture
def elsewhere(monkeypatch):
    """What the block does, it does on another host."""

    def move(name="elsewhere"):
        monkeypatch.setattr(socket, "gethostname", lambda: name)

    return move


def _ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return replace(this_process(), pid=process.pid, started=1.0)


def _leave_claim(space, owner, run_id="r", number=0):
    claim = Claim(run_id=run_id, time="then", nonce=f"old-{number}", **vars(owner))
    name = f"claim-{number}.json" if number else "claim.json"
    space.files.write(space.path(0, name), seal(vars(claim), what="a claim"))
    return claim


class Killed(BaseException):
    """Stands for SIGKILL."""


def _die(*_, **__):
    raise Killed


def test_a_publisher_that_died_before_its_clean_up_changes_nothing_published(
    local_space, monkeypatch
):
    draft = local_space.draft(0, run_id="r")
    stage(draft)
    with monkeypatch.context() as patch:
        patch.setattr(StagedFiles, "clear", _die)
        with pytest.raises(Killed):
            publish(draft)
    before = local_space.model(0).weights["attr.weight"]

    again = local_space.draft(0, run_id="r")
    again.write_model({}, {"other": np.zeros((9, 9), np.float32)}, {})
    again.write_metrics({"recall50": 0.0})
    with pytest.raises(VersionExistsError, match="already, with other files"):
        publish(again)
    np.testing.assert_array_equal(local_space.model(0).weights["attr.weight"], before)
    assert verify(local_space, 0) == []


def test_no_writer_truncates_a_linked_file(local_space):
    files = local_space.files
    files.write("a", b"published")
    files.place("a", "linked")
    with files.writer("a") as sink:
        sink.write(b"new")
    files.place("a", "b")
    files.place("a", "b")  # again, over another link of the same file
    assert [files.read(name) for name in ("a", "b", "linked")] == [b"new", b"new", b"published"]
    files.write("b", b"newer")
    assert files.read("a") == b"new"
    with contextlib.suppress(Killed), files.writer("a") as sink:
        sink.write(b"half")
        raise Killed
    assert sorted(files.find("")) == ["a", "b", "linked"]
    assert files.read("a") == b"new"


def test_two_hosts_with_one_run_id_share_neither_staging_nor_claim(space, elsewhere, monkeypatch):
    here = space.draft(0, run_id="r")
    stage(here, seed=1)
    elsewhere()
    there = space.draft(0, run_id="r")
    assert there.staged == {}
    stage(there, seed=2)
    assert there.location != here.location

    with monkeypatch.context() as patch:
        patch.setattr(Claims, "commit", _die)
        with pytest.raises(Killed):
            publish(there)  # it has claimed the number
    elsewhere("a-third-host")
    with pytest.raises(VersionExistsError, match=r"run r \(host elsewhere,"):
        publish(here)
    assert space.versions() == []

    elsewhere()
    publish(there)
    elsewhere("a-third-host")
    with pytest.raises(VersionExistsError, match="already, with other files"):
        publish(here)
    assert verify(space, 0) == []
    assert {draft.location for draft in space.drafts()} == {here.location}


def test_a_restarted_run_takes_over_what_its_ended_process_staged(space, monkeypatch):
    from backstay.registry import staging  # noqa: PLC0415

    dead = _ended_process()
    with monkeypatch.context() as patch:
        patch.setattr(staging, "this_process", lambda: dead)
        stage(space.draft(0, run_id="r"))
    (left,) = space.drafts()
    assert left.owner == dead
    draft = space.draft(0, run_id="r")
    assert len(draft.staged) > 3
    assert [d.owner for d in space.drafts()] == [this_process()]
    publish(draft)
    assert verify(space, 0) == []
    assert space.drafts() == []


def test_a_live_process_keeps_its_staging(space, monkeypatch):
    from backstay.registry import staging  # noqa: PLC0415
    from backstay.storage.processes import started  # noqa: PLC0415

    parent = replace(this_process(), pid=os.getppid(), started=started(os.getppid()))
    with monkeypatch.context() as patch:
        patch.setattr(staging, "this_process", lambda: parent)
        stage(space.draft(0, run_id="r"))
    assert space.draft(0, run_id="r").staged == {}
    assert [d.owner for d in space.drafts()] == [parent]


def test_one_of_two_restarts_takes_a_dead_claim_over(space):
    dead = _leave_claim(space, _ended_process())
    log = space.claims(0)
    first = log.take("r", nonce="first")
    assert first.nonce == "first"
    assert log.current() == first
    assert not log.commit(dead, b"{}", staging="s")
    draft = space.draft(0, run_id="r")
    stage(draft)
    publish(draft)  # the same process may take over again
    assert not log.commit(first, b"{}", staging="s")
    assert verify(space, 0) == []


@pytest.mark.parametrize("owner", [{"host": "elsewhere"}, {"run_id": "another"}])
def test_a_claim_that_is_not_provably_dead_and_ones_own_is_refused(space, owner):
    run_id = owner.get("run_id", "r")
    host = owner.get("host", socket.gethostname())
    _leave_claim(space, replace(_ended_process(), host=host), run_id=run_id)
    draft = space.draft(0, run_id="r")
    stage(draft)
    with pytest.raises(VersionExistsError, match=r"has not finished.*release_claim\(0\)"):
        publish(draft)
    space.release_claim(0)
    publish(draft)
    assert verify(space, 0) == []


def test_a_commit_is_finished_by_whoever_comes_next(space, monkeypatch):
    first, second = space.draft(0, run_id="first"), space.draft(0, run_id="second")
    stage(first, seed=1)
    stage(second, seed=2)
    create = type(space.files).create

    def die_at_the_manifest(files, path, data):
        if path.endswith("manifest.json"):
            raise Killed
        return create(files, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(type(space.files), "create", die_at_the_manifest)
        with pytest.raises(Killed):
            publish(first)
    assert space.versions() == []
    with pytest.raises(VersionExistsError, match="run first has published it"):
        publish(second)
    assert space.manifest(0).run_id == "first"
    assert verify(space, 0) == []
    assert publish(first).run_id == "first"
    with pytest.raises(NotFoundError, match="no unfinished claim"):
        space.release_claim(0)


def _interrupt(space, monkeypatch, after, intrude):
    """Call `intrude` once, before the n-th change that this process makes to the registry."""
    kind = type(space.files)
    left = iter(range(after))
    for name in ("place", "create", "remove"):  # `write` is part of some of them
        change = getattr(kind, name)

        def interrupted(*arguments, change=change):
            if next(left, None) is None:
                monkeypatch.undo()
                intrude()
            return change(*arguments)

        monkeypatch.setattr(kind, name, interrupted)


def test_a_claim_released_by_force_at_any_moment_never_mixes_two_publishers(space, monkeypatch):
    """Another run frees and takes the number at each step of a publisher that is alive."""
    winners = []
    for moment in range(30):
        inner = Space(space.files, f"space-{moment}", space.uri)
        slow, rival = inner.draft(0, run_id="slow"), inner.draft(0, run_id="rival")
        stage(slow, seed=1)
        stage(rival, seed=2)

        def overtake(inner=inner, rival=rival):
            with contextlib.suppress(NotFoundError):  # nothing is claimed yet, or all is published
                inner.release_claim(0, force=True)
            with contextlib.suppress(VersionExistsError):
                publish(rival)

        _interrupt(inner, monkeypatch, moment, overtake)
        with contextlib.suppress(VersionExistsError):
            publish(slow)
        monkeypatch.undo()
        winners.append(inner.manifest(0).run_id)
        assert verify(inner, 0) == [], moment
    assert winners == sorted(winners)  # before the commit the rival wins, after it the slow one
    assert set(winners) == {"rival", "slow"}


def test_a_committed_version_whose_staged_files_are_gone_names_the_way_out(space, monkeypatch):
    draft, later = space.draft(0, run_id="r"), space.draft(0, run_id="later")
    stage(draft)
    stage(later, seed=2)
    with monkeypatch.context() as patch:
        patch.setattr(type(space.files), "place", _die)
        with pytest.raises(Killed):
            publish(draft)
    space.files.remove("movies/staging/r")
    with pytest.raises(RegistryError, match=r"run r .* not all of its files .*end that process"):
        publish(later)
    assert space.versions() == []
    space.files.remove(space.path(0))
    assert publish(later).run_id == "later"
    assert verify(space, 0) == []


def test_the_staged_files_of_a_commit_are_no_garbage(registry, monkeypatch):
    space = registry.space("movies")
    draft = space.draft(0, run_id="r")
    stage(draft)
    with monkeypatch.context() as patch:
        patch.setattr(type(space.files), "place", _die)
        with pytest.raises(Killed):
            publish(draft)
    long_ago = -timedelta(minutes=1)
    remove_garbage(registry, find_garbage(registry, older_than=long_ago))
    assert space.finish_commit(0)
    assert verify(space, 0) == []
