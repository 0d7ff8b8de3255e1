import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from backstay.errors import MissingMapError, NotFoundError, NotReadyError, UsageError
from backstay.registry.aliases import promote, rollback
from backstay.registry.retirement import retire
from backstay.registry.store import Registry
from backstay.serving import shelf
from backstay.serving.lookup import Lookup
from backstay.serving.state import SpaceState
from tests.support import served
from tests.support.served import ITEMS, SPACE, USERS, publish, slowly


def until(happened):
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def opened(monkeypatch):
    """An event: until it is set, no table from version 2 on is opened."""
    event, open_copy = threading.Event(), shelf.open_table_copy

    def slow(registry, key, **options):
        assert key.version < 2 or event.wait(30)
        return open_copy(registry, key, **options)

    monkeypatch.setattr(shelf, "open_table_copy", slow)
    return event


def ask(lookup, entity="user", ids=(5,), **options):
    """The answer, once the table that it needs is copied."""
    while True:
        try:
            return lookup.vectors(SPACE, entity, list(ids), **options)
        except NotReadyError as error:
            assert "is being copied" in str(error)  # noqa: PT017
            lookup.wait()


def assert_answers(lookup, version, *, source, number=None, **options):
    """The answer comes from version `source`, and is what the slow loop gives.

    `number` is that of `version`, if that is a name.
    """
    number = version if number is None else number
    for entity, ids in (("user", USERS.tolist()), ("item", ITEMS)):
        found = ask(lookup, entity, ids, version=version, **options)
        assert (found.version, found.source_version) == (number, source)
        expected = slowly(entity, ids, version=number, source=source)
        np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("entity", ["user", "item"])
@pytest.mark.parametrize("version", [0, 1, 2, None])
def test_vectors_are_what_the_slow_loop_gives(lookup, entity, version):
    ids = served.ENTITIES[entity].to_pylist()
    asked = [ids[3], ids[0], ids[3], *ids]
    found = lookup.vectors(SPACE, entity, asked, version=version)
    assert (found.version, found.source_version) == (2 if version is None else version, 2)
    assert found.values.dtype == np.float32
    expected = slowly(entity, asked, version=found.version, source=2)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-5)


def test_unknown_ids_are_missing_and_have_no_row(lookup):
    found = lookup.vectors(SPACE, "user", [40, 41, 5, 42], version=0)
    assert found.found.tolist() == [True, False, True, False]
    assert found.missing.to_pylist() == [41, 42]
    assert found.found_ids.to_pylist() == [40, 5]
    assert found.values.shape == (2, served.DIMS[0])


def test_no_ids_give_no_rows(lookup):
    assert lookup.vectors(SPACE, "item", [], version=1).values.shape == (0, served.DIMS[1])


@pytest.mark.parametrize(
    ("arguments", "version", "error", "says"),
    [
        (("books", "user", [1]), 0, NotFoundError, "no space 'books'.*there is 'movies'"),
        ((SPACE, "actor", [1]), 0, NotFoundError, "no entity 'actor'.*'item', 'user'"),
        ((SPACE, "user", [1]), 3, NotFoundError, "versions 0 to 2; found 3"),
        ((SPACE, "user", [1]), -1, NotFoundError, "versions 0 to 2; found -1"),
        ((SPACE, "user", ["1"]), 0, UsageError, "integers; found '1'"),
        ((SPACE, "user", [True]), 0, UsageError, "integers; found True"),
        ((SPACE, "user", [2**63]), 0, UsageError, "within 64 bits"),
        ((SPACE, "item", [1]), 0, UsageError, "strings; found 1"),
        ((SPACE, "item", ["\ud800"]), 0, UsageError, "valid Unicode"),
    ],
)
def test_what_is_not_there_or_can_not_be_meant_is_named(lookup, arguments, version, error, says):
    with pytest.raises(error, match=says):
        lookup.vectors(*arguments, version=version)


def test_a_broken_chain_is_answered_from_an_older_table(tmp_path):
    registry = Registry(tmp_path / "registry")
    publish(registry, 0)
    publish(registry, 1, with_map=False)
    publish(registry, 2)
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        assert lookup.vectors(SPACE, "user", [5], version=1).source_version == 2
        assert_answers(lookup, 0, source=0)
        assert lookup.describe(SPACE)["entities"]["user"]["versions"] == [0, 1, 2]


def test_a_broken_chain_names_the_version_without_a_map(tmp_path):
    registry = Registry(tmp_path / "registry")
    publish(registry, 0)
    publish(registry, 1, with_map=False)
    publish(registry, 2)
    retire(registry.space(SPACE), 0, force=True)
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        with pytest.raises(MissingMapError, match="version 1 has no backward map"):
            lookup.vectors(SPACE, "user", [5], version=0)
        assert lookup.describe(SPACE)["entities"]["user"]["versions"] == [1, 2]


def test_the_description_says_what_is_there(lookup, registry):
    described = lookup.describe(SPACE)
    assert described["latest"] == 2
    assert [v["dim"] for v in described["versions"]] == list(served.DIMS)
    assert described["entities"]["item"] == {
        "rows": len(ITEMS),
        "id_type": "string",
        "source_version": 2,
        "versions": [0, 1, 2],
        "fingerprints": {
            str(k): registry.space(SPACE).manifest(k).fingerprint("item") for k in range(3)
        },
    }


def test_retired_versions_stay_readable(tmp_path):
    registry = served.build(tmp_path / "registry")
    retire(registry.space(SPACE), 0)
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        found = lookup.vectors(SPACE, "user", USERS.tolist(), version=0)
    expected = slowly("user", USERS.tolist(), version=0, source=2)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-5)


def test_an_entity_that_a_newer_version_lacks_is_answered_from_its_own_newest(tmp_path):
    registry = served.build(tmp_path / "registry", versions=2)
    publish(registry, 2, tables={"user": served.tables_of(2)["user"]})
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        assert lookup.vectors(SPACE, "user", [5]).source_version == 2
        assert lookup.resolve(SPACE, "latest") == 2  # of the space, whatever the entity
        with pytest.raises(NotFoundError, match="versions 0 to 1; found 2"):
            lookup.vectors(SPACE, "item", ["tt1"])
        found = lookup.vectors(SPACE, "item", ["tt1"], version=1)
    assert (found.version, found.source_version) == (1, 1)


def test_only_promoted_versions_are_served_and_a_rollback_takes_the_service_back(tmp_path):
    registry = served.build(tmp_path / "registry", versions=2)
    space = registry.space(SPACE)
    promote(space, 0)
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        lookup.watch(seconds=0.02)
        assert lookup.vectors(SPACE, "user", [5]).source_version == 0
        publish(registry, 2)
        for move, version in [
            (lambda: promote(space, 2), 2),
            (lambda: rollback(space), 0),
            (lambda: promote(space, 1), 1),
        ]:
            move()
            until(lambda v=version: lookup.vectors(SPACE, "user", [5]).source_version == v)
            found = lookup.vectors(SPACE, "user", USERS.tolist(), version=0)
            expected = slowly("user", USERS.tolist(), version=0, source=version)
            np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-5)
        assert_answers(lookup, 2, source=2)  # above `prod`, for those who ask for it


def test_an_answer_keeps_to_one_state_if_the_next_comes_in_force_meanwhile(tmp_path, monkeypatch):
    space = served.build(tmp_path / "registry", versions=3).space(SPACE)
    promote(space, 1)
    with Lookup(str(tmp_path / "registry"), cache=tmp_path / "cache") as lookup:
        resolve = SpaceState.resolve

        def promoting(state, *args, **options):
            promote(space, 2)
            lookup.refresh()
            return resolve(state, *args, **options)

        monkeypatch.setattr(SpaceState, "resolve", promoting)
        found = lookup.vectors(SPACE, "user", [5])
    assert (found.version, found.source_version) == (1, 1)


def test_latest_is_the_version_before_until_the_table_of_the_next_is_open(tmp_path, opened):
    registry = served.build(tmp_path / "registry", versions=2)
    promote(registry.space(SPACE), 0)
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        assert_answers(lookup, "latest", source=1, number=1)
        publish(registry, 2)
        lookup._poll()
        lookup._settle()
        assert_answers(lookup, "latest", source=1, number=1)
        opened.set()
        lookup.wait()
        lookup._settle()
        assert lookup.vectors(SPACE, "user", [5], version="latest").source_version == 2


def test_a_promotion_does_not_wait_for_the_table_of_latest(tmp_path, opened):
    registry = served.build(tmp_path / "registry", versions=2)
    promote(registry.space(SPACE), 0)
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        assert_answers(lookup, "latest", source=1, number=1)
        publish(registry, 2)
        lookup._poll()
        lookup._settle()
        promote(registry.space(SPACE), 1)
        lookup._poll()
        lookup._settle()
        assert_answers(lookup, None, source=1, number=1)
        opened.set()


def test_a_version_published_meanwhile_is_taken_up(tmp_path):
    registry = served.build(tmp_path / "registry", versions=1)
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        assert lookup.refresh() == []
        publish(registry, 1)
        publish(registry, 0, space="books")
        assert lookup.vectors(SPACE, "user", [5]).source_version == 0
        assert sorted(lookup.refresh()) == ["books", SPACE]
        assert lookup.spaces() == ["books", SPACE]
        found = lookup.vectors(SPACE, "user", [5], version=0)
    assert found.source_version == 1
    expected = slowly("user", [5], version=0, source=1)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-5)


def test_a_watcher_takes_versions_up_by_itself_and_survives_an_unreadable_registry(
    tmp_path, monkeypatch
):
    registry = served.build(tmp_path / "registry", versions=1)
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        failed = threading.Event()
        folders = registry.files.folders

        def unreadable(_path):
            failed.set()
            raise OSError("the store is away")

        monkeypatch.setattr(registry.files, "folders", unreadable)
        lookup.watch(seconds=0.01)
        publish(Registry(tmp_path / "registry"), 1)
        assert failed.wait(30)
        monkeypatch.setattr(registry.files, "folders", folders)
        until(lambda: lookup.vectors(SPACE, "user", [5]).source_version == 1)
        assert lookup.watching
    assert not lookup.watching


def test_a_version_that_can_not_be_served_leaves_the_one_before_at_work(tmp_path):
    registry = served.build(tmp_path / "registry", versions=1)
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        publish(registry, 1)
        part = next((tmp_path / "registry").glob("*/versions/1/tables/user/*.parquet"))
        part.write_bytes(b"no parquet")
        assert lookup.refresh() == []
        assert "bytes; found 10" in lookup.failures[SPACE]
        assert lookup.vectors(SPACE, "user", [5]).source_version == 0


def test_answers_stay_whole_while_versions_come_and_go(tmp_path):
    registry = served.build(tmp_path / "registry", versions=1)
    expected = {k: slowly("user", USERS.tolist(), version=0, source=k) for k in range(3)}
    seen, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            found = lookup.vectors(SPACE, "user", USERS.tolist(), version=0)
            seen.append(found)

    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for version in (1, 2):
            publish(registry, version)
            lookup.refresh()
        stop.set()
        for thread in threads:
            thread.join()
        seen.append(lookup.vectors(SPACE, "user", USERS.tolist(), version=0))
    assert {found.source_version for found in seen} >= {0, 2}
    for found in seen:
        assert found.values == pytest.approx(expected[found.source_version], rel=1e-4, abs=1e-4)


def test_two_registries_with_a_space_of_one_name_share_a_cache_without_mixing(tmp_path):
    served.build(tmp_path / "a", versions=1)
    other = Registry(tmp_path / "b")
    publish(other, 0, tables={"user": np.zeros((len(USERS), 3), np.float32)})
    with (
        Lookup(str(tmp_path / "a"), cache=tmp_path / "cache") as first,
        Lookup(str(tmp_path / "b"), cache=tmp_path / "cache") as second,
    ):
        assert first.vectors(SPACE, "user", [5]).values.any()
        assert not second.vectors(SPACE, "user", [5]).values.any()


def test_an_empty_table_answers_nothing(tmp_path):
    registry = Registry(tmp_path / "registry")
    publish(
        registry,
        0,
        tables={"user": np.empty((0, 3), np.float32)},
        entities={"user": pa.array([], pa.int64())},
    )
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        assert lookup.vectors(SPACE, "user", [1]).missing.to_pylist() == [1]
