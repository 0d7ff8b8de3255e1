"""Change markers: renewed by every write, read by one request, and never more than a hint."""

import logging
from datetime import timedelta

import pytest

from backstay.registry import aliases, contracts
from backstay.registry.changes import MARKER
from backstay.registry.compaction import compact
from backstay.registry.garbage import find_garbage
from backstay.registry.retirement import retire
from backstay.registry.store import Registry
from backstay.registry.verify import verify
from tests.support.builders import contract, fill, publish, stage
from tests.support.deltas import pair

WRITES = {
    "publish": lambda space: fill(space, 6),
    "promote": lambda space: aliases.promote(space, 2),
    "rollback": aliases.rollback,
    "add a contract": lambda space: contracts.write(space, contract("ads", version=0), {}),
    "remove a contract": lambda space: contracts.remove(space, "ads"),
    "retire": lambda space: retire(space, 1),
}


def test_every_write_renews_the_markers_of_its_space_and_of_the_registry(registry):
    space, other = registry.space("movies"), registry.space("books")
    assert registry.change_token() is None
    assert space.change_token() is None
    fill(space, 3, 4, 5)
    aliases.promote(space, 0)
    fill(other, 3)
    seen = {(registry.change_token(), space.change_token())}
    untouched = other.change_token()
    for write in WRITES.values():
        write(space)
        token = (registry.change_token(), space.change_token())
        assert token == (registry.change_token(), space.change_token())
        assert not any(token[0] == root or token[1] == own for root, own in seen)
        seen.add(token)
    assert other.change_token() == untouched


def test_compaction_renews_the_marker_and_a_dry_run_does_not(local_space):
    pair(local_space)
    before = local_space.change_token()
    compact(local_space, 1, dry_run=True)
    assert local_space.change_token() == before
    compact(local_space, 1)
    assert local_space.change_token() != before


def test_a_commit_that_somebody_else_finishes_renews_the_marker(local_space):
    fill(local_space, 3)
    draft = local_space.draft(1, run_id="killed")
    stage(draft, previous_dim=3)
    publish(draft)
    local_space.files.remove(local_space.path(1, "manifest.json"))  # as if killed before it
    before = local_space.change_token()
    assert local_space.finish_commit(1)
    assert local_space.change_token() != before
    assert local_space.versions() == [0, 1]


def test_on_an_object_store_an_idle_reader_sends_one_request(s3):
    registry = Registry(f"{s3.bucket()}/registry", storage_options=s3.storage_options)
    space = fill(registry.space("movies"), 3)
    tokens = []
    for of in (space, registry):
        with s3.record() as requests:
            tokens.append(of.change_token())
        assert [request.split()[0] for request in requests] == ["HEAD"]
    aliases.promote(space, 0)
    assert space.change_token() != tokens[0]
    assert registry.change_token() != tokens[1]


def test_a_writer_that_cannot_renew_the_marker_warns_and_goes_on(local_space, caplog, monkeypatch):
    fill(local_space, 3)
    write = type(local_space.files).write

    def refuse(self, path, data):
        if path.endswith(MARKER):
            raise PermissionError(path)
        write(self, path, data)

    monkeypatch.setattr(type(local_space.files), "write", refuse)
    with caplog.at_level(logging.WARNING):
        aliases.promote(local_space, 0)
    assert aliases.aliases(local_space) == {"prod": 0}
    assert "could not be renewed" in caplog.text


@pytest.mark.parametrize("data", [b"", b"\x00\xff", b"{"])
def test_a_damaged_marker_is_harmless(local_space, data):
    fill(local_space, 3)
    before = local_space.change_token()
    local_space.files.write(f"movies/{MARKER}", data)
    assert local_space.change_token() not in (before, None)
    assert verify(local_space, 0) == []
    registry = Registry(local_space.uri)
    assert registry.spaces() == ["movies"]
    assert find_garbage(registry, older_than=timedelta(0)) == []
