"""What a look-up answers when copies, versions, spaces or disks fail, and what it asks for then."""

import errno
import gc
import os
import threading
import time

import pytest

from backstay.errors import NotFoundError, NotReadyError, ServiceError, SourceChangedError
from backstay.registry import contracts
from backstay.registry.aliases import promote
from backstay.registry.retirement import retire
from backstay.registry.store import Registry
from backstay.serving import copies
from backstay.serving.app import build_app
from backstay.serving.loader import Loader
from backstay.serving.lookup import Lookup
from backstay.serving.mapped import MappedTable
from tests.support import served
from tests.support.builders import contract
from tests.support.copies import key_of
from tests.support.served import SPACE, USERS, listening, publish
from tests.unit.serving.test_lookup import ask, assert_answers, until


@pytest.fixture
def registry(tmp_path):
    return served.build(tmp_path / "registry", versions=3)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def files(cache, pattern):
    return sorted(cache.glob(f"*/{SPACE}/{pattern}"))


def damage(registry, pattern):
    """Overwrite stored files; returns a function that restores them."""
    before = {path: registry.files.read(path) for path in registry.files.find("")
              if pattern in path}  # fmt: skip
    for path in before:
        registry.files.write(path, b"damaged")

    def restore():
        for path, data in before.items():
            registry.files.write(path, data)

    return restore


# Versions.


def test_a_consumer_gets_the_version_of_its_contract_and_others_get_prod(registry, cache):
    space = registry.space(SPACE)
    contracts.write(space, contract("ads", version=0), {})
    promote(space, 1)
    promote(space, 2, alias="canary")
    with Lookup(registry, cache=cache) as lookup:
        for asked, version in [
            ({}, 1),
            ({"consumer": "ads"}, 0),
            ({"consumer": "unknown"}, 1),
            ({"consumer": "ads", "version": 1}, 1),
            ({"consumer": "ads", "version": "latest"}, 2),
            ({"version": "canary"}, 2),
            ({"version": "prod"}, 1),
            ({"version": "0"}, 0),
        ]:
            assert lookup.resolve(SPACE, **asked) == version
            found = ask(lookup, ids=USERS.tolist(), **asked)
            assert found.version == version
            assert found.source_version == max(version, 1)
        with pytest.raises(NotFoundError, match=r"no alias 'beta'; it has canary, prod"):
            lookup.resolve(SPACE, "beta")


def test_an_answer_names_the_builds_of_vectors_and_table(registry, cache):
    space = registry.space(SPACE)
    with Lookup(registry, cache=cache) as lookup:
        found = lookup.vectors(SPACE, "user", [5], version=0)
    assert found.fingerprint == space.manifest(0).fingerprint("user")
    assert found.source_fingerprint == space.manifest(2).fingerprint("user")


def test_a_request_that_names_its_source_is_answered_from_it_or_not_at_all(registry, cache):
    promote(registry.space(SPACE), 1)
    with Lookup(registry, cache=cache) as lookup:
        for source in (0, 1, 2):
            assert_answers(lookup, 0, source=source) if source == 1 else None
            assert ask(lookup, version=0, source=source).source_version == source
        retire(registry.space(SPACE), 0)
        lookup.refresh()
        assert ask(lookup, version=0, source=0).source_version == 0  # its call may not have ended
        with pytest.raises(SourceChangedError, match="version 1 answers now"):
            lookup.vectors(SPACE, "user", [5], version=1, source=0)


def test_after_the_grace_the_table_before_is_closed_and_its_copy_removed(registry, cache):
    promote(registry.space(SPACE), 1)
    with Lookup(registry, cache=cache, grace=0.0) as lookup:
        assert [path.name[0] for path in files(cache, "user/*.f2")] == ["1"]
        promote(registry.space(SPACE), 2)
        lookup.refresh()
        lookup.shelf.tick()
        gc.collect()
        lookup.shelf.tick()
        assert [path.name[0] for path in files(cache, "user/*.f2")] == ["2"]
        assert_answers(lookup, 0, source=2)


def test_a_dropped_space_leaves_memory_and_disk(registry, cache):
    publish(registry, 0, space="books")
    with Lookup(registry, cache=cache, grace=0.0) as lookup:
        assert lookup.spaces() == ["books", SPACE]
        registry.files.remove("books")
        lookup.refresh()
        assert lookup.spaces() == [SPACE]
        with pytest.raises(NotFoundError, match="no space 'books'"):
            lookup.vectors("books", "user", [5])
        gc.collect()
        lookup.shelf.tick()
        assert list(cache.glob("*/books")) == []


def test_only_the_spaces_that_were_asked_for_are_loaded(registry, cache):
    publish(registry, 0, space="books")
    with Lookup(registry, cache=cache, spaces=["books"]) as lookup:
        assert lookup.spaces() == ["books"]
        assert files(cache, "*") == []


def test_tables_that_are_not_in_force_are_few_at_a_time(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("backstay.serving.uses._MOST_EXTRA", 1)
    registry = Registry(tmp_path / "registry")
    for version in range(3):
        publish(registry, version, with_map=False)
    with Lookup(registry, cache=cache, grace=0.0) as lookup:
        for version in (0, 1):
            assert ask(lookup, version=version).source_version == version
        lookup.shelf.tick()
        gc.collect()
        lookup.shelf.tick()
        assert [path.name[0] for path in files(cache, "user/*.f2")] == ["1", "2"]


# Damage.


def test_a_truncated_copy_is_fetched_again_at_the_start(registry, cache):
    with Lookup(registry, cache=cache):
        pass
    for path in files(cache, "*/2-*/vectors.npy"):
        os.truncate(path, 10)
    with Lookup(registry, cache=cache) as lookup:
        assert_answers(lookup, 0, source=2)


def test_a_copy_damaged_while_it_is_served_gives_no_wrong_vector(registry, cache):
    with Lookup(registry, cache=cache) as lookup:
        for path in files(cache, "user/2-*/vectors.npy"):
            data = bytearray(path.read_bytes())
            data[-200:] = bytes(200)
            path.write_bytes(data)
        with pytest.raises(NotReadyError, match="is being copied"):
            lookup.vectors(SPACE, "user", [5], version=0)
        lookup.wait()
        assert_answers(lookup, 0, source=2)


def test_a_copy_damaged_during_a_look_up_gives_no_wrong_vector(registry, cache, monkeypatch):
    gather = MappedTable.gather

    def damaging(table, rows):
        for path in cache.glob("*/*/user/*/vectors.npy"):
            data = path.read_bytes()
            path.write_bytes(data[:128] + bytes(len(data) - 128))
        return gather(table, rows)

    with Lookup(registry, cache=cache) as lookup:
        lookup.vectors(SPACE, "user", [5])
        with monkeypatch.context() as patch:
            patch.setattr(MappedTable, "gather", damaging)
            with pytest.raises(NotReadyError, match="is being copied"):
                lookup.vectors(SPACE, "user", [5])


def test_a_damaged_version_leaves_older_ones_at_a_fresh_start(registry, cache):
    restore = damage(registry, "versions/2/tables/user/part-")
    with Lookup(registry, cache=cache) as lookup:
        assert "should have" in lookup.ready()[SPACE]
        assert ask(lookup, version=0).source_version == 1
        with pytest.raises(NotReadyError, match="can't be loaded"):
            lookup.vectors(SPACE, "user", [5])
        assert lookup.vectors(SPACE, "item", ["tt1"]).source_version == 2
        restore()
        lookup.refresh()
        assert lookup.ready() == {}
        assert_answers(lookup, 0, source=2)


@pytest.mark.parametrize("pattern", ["versions/1/manifest.json", "versions/1/tables"])
def test_damage_to_an_older_version_is_no_matter_to_the_newest(registry, cache, pattern):
    damage(registry, pattern)
    with Lookup(registry, cache=cache) as lookup:
        assert lookup.ready() == {}
        assert ask(lookup, version=2).source_version == 2


def test_a_damaged_space_answers_503_and_leaves_the_others(registry, cache):
    publish(registry, 0, space="books")
    promote(registry.space("books"), 0)
    restore = damage(registry, "books/aliases")
    with Lookup(registry, cache=cache) as lookup:
        assert list(lookup.ready()) == ["books"]
        assert lookup.spaces() == ["books", SPACE]
        with pytest.raises(NotReadyError, match="space 'books' can't be served"):
            lookup.vectors("books", "user", [5])
        assert_answers(lookup, 0, source=2)
        restore()
        assert lookup.refresh() == ["books"]
        assert lookup.vectors("books", "user", [5]).version == 0


def test_over_http_a_space_that_cannot_be_loaded_is_503_and_the_service_lives(registry, cache):
    import httpx  # noqa: PLC0415

    damage(registry, "versions/")
    with Lookup(registry, cache=cache) as lookup, listening(build_app(lookup)) as url:
        answer = httpx.get(f"{url}/v1/spaces/{SPACE}/user/5")
        assert (answer.status_code, answer.headers["content-type"]) == (
            503,
            "application/problem+json",
        )
        assert int(answer.headers["Retry-After"]) > 0
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert httpx.get(f"{url}/readyz").status_code == 503


# Disks and slow copies.


def test_with_a_full_disk_the_table_before_goes_on(registry, cache, monkeypatch):
    promote(registry.space(SPACE), 1)
    with Lookup(registry, cache=cache) as lookup:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(copies, "_write_table", full)
            promote(registry.space(SPACE), 2)
            assert lookup.refresh() == []
            assert "is full" in lookup.failures[SPACE]
            assert "--cache" in lookup.failures[SPACE]
            assert lookup.ready() == {}
            assert_answers(lookup, 0, source=1)
            assert files(cache, "user/.*.partial") == files(cache, "user/2-*") == []
        assert lookup.refresh() == [SPACE]
        assert_answers(lookup, 0, source=2)


def test_one_slow_copy_holds_up_no_other_space(registry, cache, monkeypatch):
    slow, go_on, write = threading.Event(), threading.Event(), copies._write_table

    def writing(table, folder, shard):
        if table.space == "books":
            slow.set()
            assert go_on.wait(30)
        write(table, folder, shard)

    with Lookup(registry, cache=cache) as lookup:
        monkeypatch.setattr(copies, "_write_table", writing)
        lookup.watch(seconds=0.02)
        publish(registry, 0, space="books")
        assert slow.wait(30)
        with pytest.raises(NotReadyError, match="'books' are being copied"):
            lookup.vectors("books", "user", [5])
        promote(registry.space(SPACE), 1)
        until(lambda: ask(lookup).source_version == 1)
        go_on.set()
        until(lambda: "books" not in lookup.ready())
        assert lookup.vectors("books", "user", [5]).version == 0


def test_after_a_failure_a_load_waits_longer_each_time():
    attempts = []

    def failing(key):
        attempts.append(key)
        raise ServiceError("no")

    loader, key, waits = Loader(failing), key_of(), []
    for _ in range(12):
        loader.want(key, now=True)
        loader.wait()
        loader.want(key)  # too early: nothing happens
        loader.wait()
        waits.append(loader.failure(key).again - time.monotonic())
    assert len(attempts) == 12
    for n, wait in enumerate(waits):
        longest = min(2.0**n, 300.0)
        assert longest / 2 - 1 <= wait <= longest


def test_a_load_that_succeeds_after_a_failure_is_forgotten_as_a_failure():
    results = [OSError("away"), 1]

    def load(_key):
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    loader, key = Loader(load), key_of()
    for _ in range(2):
        loader.want(key, now=True)
        loader.wait()
    assert loader.get(key) == 1
    assert loader.failure(key) is None
