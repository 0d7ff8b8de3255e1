"""`backstay compact`, and what depends on a base, through the command line."""

import json

import pytest
from click.testing import CliRunner

from backstay.cli import main
from backstay.errors import CorruptError, NotFoundError
from backstay.registry import compaction
from backstay.registry.compaction import compact
from backstay.registry.overlay import Overlay
from backstay.registry.retirement import retire
from backstay.registry.store import Registry
from backstay.registry.stored import deltas
from backstay.registry.verify import verify
from tests.support.builders import fill
from tests.support.deltas import pair, read, rows_of, write


def run(space, *words):
    where = ("--registry", str(space.uri), "--space", space.name, "--json")
    return CliRunner().invoke(main, [words[0], *where, *map(str, words[1:])])


def answer(space, *words):
    done = run(space, *words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def delta(local_space):
    pair(local_space)
    return local_space


def test_a_base_is_retired_once_what_depends_on_it_is_compacted(delta):
    before, manifest = (
        read(delta.table(1, "item")),
        delta.files.read(delta.path(1, "manifest.json")),
    )
    write(delta, *delta.table(1, "item").read(), mapped=True)
    refused = run(delta, "retire", 0, "--force")
    assert refused.exit_code == 1
    assert "tables of version 1 are stored as changes to its tables" in refused.stderr
    assert f"backstay compact --registry {delta.uri} --space movies 1" in refused.stderr
    assert delta.retired(0) is None

    (shown,) = answer(delta, "show", 1)["tables"]
    assert shown["stored_as"] == "delta"
    figures = [shown[name] for name in ("base", "changed_rows", "deleted_rows", "new_rows", "rows")]
    assert figures == [0, 3, 2, 2, 100]

    (plan,) = answer(delta, "compact", 1, "--dry-run")["tables"]
    assert (plan["state"], plan["base"]) == ("would be compacted", 0)
    assert deltas(delta, delta.manifest(1))
    (done,) = answer(delta, "compact")["tables"]
    assert (done["state"], done["version"], done["rows"]) == ("compacted now", 1, 100)
    (again,) = answer(delta, "compact", 1)["tables"]
    assert (again["state"], again["written"]) == ("compacted before", done["written"])
    assert answer(delta, "show", 1)["tables"][0]["stored_as"] == "delta, compacted"

    assert delta.table(1, "item").base is None
    assert read(delta.table(1, "item")) == before
    assert delta.files.read(delta.path(1, "manifest.json")) == manifest
    assert answer(delta, "verify")["problems"] == []
    answer(delta, "retire", 0, "--force")
    assert read(delta.table(1, "item")) == before
    assert answer(delta, "verify")["problems"] == []
    freed = answer(delta, "retire", 1, "--force")["freed"]
    assert freed > done["written"]
    assert answer(delta, "verify")["problems"] == []


def test_a_compacted_table_is_the_base_of_later_deltas(delta):
    compact(delta, 1)
    ids, values = delta.table(1, "item").read()
    values[5] += 1
    write(delta, ids, values, base=1)
    found = deltas(delta, delta.manifest(2))["item"]
    assert (found.base, found.changed_rows) == (1, 1)
    assert read(delta.table(2, "item")) == rows_of(ids, values)


def test_versions_without_a_delta_and_wrong_versions(local_space):
    fill(local_space, 3, 4, 5)
    assert answer(local_space, "compact")["tables"] == []
    assert "has no version 9" in run(local_space, "compact", 9).stderr
    retire(local_space, 0)
    with pytest.raises(NotFoundError, match="version 0 was retired"):
        compact(local_space, 0)
    assert answer(local_space, "compact")["versions"] == [1, 2]


def test_a_base_that_was_changed_is_not_compacted(delta):
    name = delta.path(0, "tables/item/part-00001.parquet")
    data = bytearray(delta.files.read(name))
    data[80] ^= 1
    delta.files.write(name, bytes(data))
    done = run(delta, "compact", 1)
    assert done.exit_code == 1
    assert "It was changed after it was published" in done.stderr
    assert not [n for n in delta.files.find(delta.path(1)) if "full-" in n]


def test_rows_with_another_hash_are_not_compacted(delta, monkeypatch):
    monkeypatch.setattr(Overlay, "changes", lambda *_: (each for each in ()))
    with pytest.raises(CorruptError, match="should have rows with the hash"):
        compact(delta, 1)
    assert {defect.kind for defect in verify(delta, 1)} == {"content"}
    assert not [n for n in delta.files.find(delta.path(1)) if "full-" in n]


def test_of_two_compactions_at_once_the_first_wins(delta, monkeypatch):
    there = compaction.write_parts

    def second_first(*arguments, **options):
        written = there(*arguments, **options)
        monkeypatch.setattr(compaction, "write_parts", there)
        compact(Registry(delta.uri).space("movies"), 1)
        return written

    monkeypatch.setattr(compaction, "write_parts", second_first)
    before = read(delta.table(1, "item"))
    compact(delta, 1)
    folders = {n.split("/")[2] for n in delta.files.find(delta.path(1)) if "full-" in n}
    assert len(folders) == 1
    assert read(delta.table(1, "item")) == before
    assert verify(delta, 1) == []


def test_a_flipped_byte_of_a_compaction_is_detected(delta):
    compact(delta, 1)
    wanted = read(delta.table(1, "item"))
    for name in [n for n in delta.files.find(delta.path(1)) if "full-" in n or "_compacted" in n]:
        data = delta.files.read(delta.path(1, name))
        for at in range(0, len(data), max(1, len(data) // 20)):
            changed = bytearray(data)
            changed[at] ^= 4
            delta.files.write(delta.path(1, name), bytes(changed))
            with pytest.raises(CorruptError):
                read(delta.table(1, "item"))
            assert verify(delta, 1)
        delta.files.write(delta.path(1, name), data)
    assert read(delta.table(1, "item")) == wanted
