import threading

import pytest

from backstay.errors import ServiceError
from backstay.registry import contracts
from backstay.registry.aliases import promote
from backstay.registry.retirement import retire
from backstay.registry.store import Registry
from backstay.serving.reads import TimedReads
from backstay.serving.watcher import Watcher
from tests.support import served
from tests.support.builders import contract
from tests.support.served import SPACE, publish


@pytest.fixture
def registry(tmp_path):
    return served.build(tmp_path / "registry", versions=3)


def read(registry, **options):
    watcher = Watcher(registry, **options)
    watcher.poll()
    return watcher


def test_an_idle_poll_of_an_object_store_costs_one_request(s3):
    registry = Registry(f"{s3.bucket()}/registry", storage_options=s3.storage_options)
    for space in ("movies", "books"):
        publish(registry, 0, space=space)
    watcher = read(registry)
    with s3.record() as requests:
        for _ in range(5):
            watcher.poll()
    assert [request.split()[0] for request in requests] == ["HEAD"] * 5
    promote(registry.space("movies"), 0)
    with s3.record() as requests:
        watcher.poll()
    assert watcher.states["movies"].aliases == {"prod": 0}
    assert [request for request in requests if "books/" in request] == [
        next(request for request in requests if "books/.changed" in request)
    ]


def test_a_change_makes_a_new_generation_and_anything_else_keeps_the_state(tmp_path):
    registry = served.build(tmp_path / "registry", versions=2)
    space = registry.space(SPACE)
    watcher = read(registry, full_every=1)
    known = watcher.states[SPACE]
    watcher.poll()
    assert watcher.states[SPACE] is known
    for change in (
        lambda: promote(space, 1),
        lambda: contracts.write(space, contract("ads", version=0), {}),
        lambda: contracts.remove(space, "ads"),
        lambda: retire(space, 0),
        lambda: publish(registry, 2),
    ):
        change()
        watcher.poll()
        assert watcher.states[SPACE].generation > known.generation
        known = watcher.states[SPACE]
    assert (known.in_force, known.latest, known.pins) == (1, 2, {})
    assert known.versions[0].retired


def test_a_change_whose_writer_died_before_the_marker_is_found_by_a_full_poll(
    registry, monkeypatch
):
    watcher = read(registry, full_every=3)
    monkeypatch.setattr(type(registry.space(SPACE)), "renew_markers", lambda _: None)
    promote(registry.space(SPACE), 1)
    watcher.poll()
    watcher.poll()
    assert watcher.states[SPACE].in_force == 2
    watcher.poll()
    assert watcher.states[SPACE].in_force == 1


def damage(registry, pattern):
    for path in registry.files.find(""):
        if pattern in path:
            registry.files.write(path, b"{")


def test_a_version_that_cannot_be_read_is_noted_and_leaves_the_others(registry):
    damage(registry, "versions/1/manifest.json")
    state = read(registry).states[SPACE]
    assert list(state.versions) == [0, 2]
    assert "versions/1/manifest.json" in state.faults[1]
    assert state.latest == 2


def test_a_contract_that_cannot_be_read_is_noted_and_leaves_the_others(registry):
    space = registry.space(SPACE)
    for name in ("ads", "search"):
        contracts.write(space, contract(name, version=0), {})
    damage(registry, "consumers/ads/")
    state = read(registry).states[SPACE]
    assert state.pins == {"search": 0}
    assert "ads" in state.broken_contracts["ads"]


def test_a_space_that_cannot_be_read_keeps_its_state_and_leaves_the_others(registry):
    promote(registry.space(SPACE), 1)
    watcher = read(registry)
    damage(registry, "aliases/prod/")
    publish(registry, 0, space="books")
    watcher.poll(full=True)
    assert watcher.states[SPACE].in_force == 1
    assert watcher.states["books"].in_force == 0
    assert list(watcher.faults) == [SPACE]
    fresh = read(registry)
    assert list(fresh.states) == ["books"]
    assert list(fresh.faults) == [SPACE]


def test_only_the_spaces_that_were_asked_for_are_read(registry):
    publish(registry, 0, space="books")
    assert list(read(registry, spaces=["books"]).states) == ["books"]


def test_a_registry_that_is_empty_all_at_once_drops_nothing(registry):
    watcher = read(registry)
    registry.files.remove("")
    with pytest.raises(ServiceError, match="is mounted"):
        watcher.poll(full=True)
    assert list(watcher.states) == [SPACE]


def test_a_registry_that_hangs_is_given_up_and_not_asked_twice_at_a_time(registry, monkeypatch):
    watcher = read(registry, seconds=0.05)
    back, asked = threading.Event(), []

    def hanging():
        asked.append(1)
        back.wait(30)

    monkeypatch.setattr(registry, "change_token", hanging)
    for _ in range(3):
        with pytest.raises(TimeoutError, match="has not answered for"):
            watcher.poll()
    assert asked == [1]
    assert list(watcher.states) == [SPACE]
    back.set()


def test_one_read_that_hangs_does_not_keep_the_results_of_the_others():
    back = threading.Event()
    reads = TimedReads(0.05)
    results = reads.run({"slow": lambda: back.wait(30), "quick": lambda: 1})
    assert results["quick"] == 1
    assert isinstance(results["slow"], TimeoutError)
    back.set()
