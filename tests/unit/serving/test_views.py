import asyncio
import gc
import logging
import pickle
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from backstay.errors import CorruptError
from backstay.registry import contracts
from backstay.registry.aliases import promote
from backstay.registry.store import Registry
from backstay.serving import views as views_module
from backstay.serving.app import build_app
from backstay.serving.lookup import Lookup
from tests.support import served
from tests.support.builders import contract
from tests.support.served import DIMS, ITEMS, SPACE, USERS, publish, slowly, tables_of

IDS = {"user": USERS.tolist(), "item": ITEMS}


@pytest.fixture
def registry(tmp_path):
    return served.build(tmp_path / "registry")


@pytest.fixture
def pinned(registry):
    contracts.write(registry.space(SPACE), contract("ads", version=0), {})
    return registry


def opened(registry, tmp_path, **options):
    lookup = Lookup(registry, cache=tmp_path / "cache", grace=0, **options)
    lookup.wait(views=True)
    return lookup


def views(tmp_path):
    return sorted(
        f"{path.parent.name} {path.name.split('-')[0]}→{path.name.split('.to')[1].split('-')[0]}"
        for path in (tmp_path / "cache").glob("*/*/*/[!.]*.to*")
        if path.is_dir()
    )


def product(registry, tmp_path):
    return opened(registry, tmp_path / "other", views_max_bytes=0)


def ask_enough(lookup, entity, version):
    for _ in range(2):
        lookup.vectors(SPACE, entity, IDS[entity], version=version)
    lookup.refresh()
    lookup.wait(views=True)


@pytest.mark.parametrize("entity", ["user", "item"])
def test_a_view_gives_what_the_product_gives(pinned, tmp_path, entity):
    ids = [*IDS[entity], IDS[entity][0], -5 if entity == "user" else "gone"]
    with opened(pinned, tmp_path) as lookup, product(pinned, tmp_path) as slow:
        assert views(tmp_path) == ["item 2→0", "user 2→0"]
        for asked in (ids, ids[:1], ids[-1:], []):
            found = lookup.vectors(SPACE, entity, asked, version=0)
            expected = slow.vectors(SPACE, entity, asked, version=0)
            np.testing.assert_allclose(found.values, expected.values, rtol=1e-5, atol=1e-5)
            oracle = slowly(entity, asked, version=0, source=2)
            np.testing.assert_allclose(found.values, oracle, rtol=1e-5, atol=1e-5)
            assert found.found.tolist() == expected.found.tolist()
            assert found.ids.equals(expected.ids)
            for name in ("version", "source_version", "fingerprint", "source_fingerprint"):
                assert getattr(found, name) == getattr(expected, name)
    assert views(tmp_path / "other") == []


def test_a_look_up_through_a_view_computes_no_product(pinned, tmp_path, monkeypatch):
    with opened(pinned, tmp_path) as lookup:
        monkeypatch.setattr("backstay.compat.maps.BackwardMap.convert", None)
        assert lookup.vectors(SPACE, "user", [5], version=0).values.shape == (1, DIMS[0])


def test_a_restart_finds_the_views_of_the_run_before(pinned, tmp_path, monkeypatch):
    def made():
        with Lookup(pinned, cache=tmp_path / "cache") as lookup:
            lookup.wait(views=True)
        del lookup
        gc.collect()  # as the end of a process: nothing holds the copies any more
        return [
            path.stat().st_mtime_ns for path in sorted(tmp_path.glob("cache/*/*/*/[!.]*.to*/*"))
        ]

    first = made()
    assert len(first) == 4
    monkeypatch.setattr("backstay.serving.views._write", None)
    assert made() == first


def test_a_version_gets_a_view_once_it_was_asked_for_as_many_rows_as_the_table_has(
    registry, tmp_path
):
    with opened(registry, tmp_path) as lookup:
        lookup.vectors(SPACE, "user", IDS["user"][1:], version=1)
        lookup.refresh()
        lookup.wait(views=True)
        assert views(tmp_path) == []
        ask_enough(lookup, "user", 1)
        assert views(tmp_path) == ["user 2→1"]


def test_an_overflow_makes_no_view_and_is_logged_once(tmp_path, caplog):
    values = tables_of(2)
    values["user"][0] = 3e38
    other = Registry(tmp_path / "large")
    for k in range(3):
        publish(other, k, tables=values if k == 2 else None)
    contracts.write(other.space(SPACE), contract("ads", version=0), {})
    with opened(other, tmp_path) as lookup:
        for _ in range(3):
            lookup.refresh()
            lookup.wait(views=True)
        assert views(tmp_path) == ["item 2→0"]
        assert caplog.text.count("overflows float32") == 1
        assert not list((tmp_path / "cache").rglob("*.partial"))
        oracle = slowly("user", IDS["user"][1:], version=0, source=2)
        found = lookup.vectors(SPACE, "user", IDS["user"][1:], version=0)
        np.testing.assert_allclose(found.values, oracle, rtol=1e-5, atol=1e-5)
        with pytest.raises(CorruptError, match="overflow"):
            lookup.vectors(SPACE, "user", IDS["user"][:1], version=0)


def test_a_damaged_view_is_made_again_and_never_answers(pinned, tmp_path):
    with opened(pinned, tmp_path) as lookup:
        (path,) = (tmp_path / "cache").glob("*/*/user/*.to0-*/vectors.npy")
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
        oracle = slowly("user", IDS["user"], version=0, source=2)
        for _ in range(2):
            found = lookup.vectors(SPACE, "user", IDS["user"], version=0)
            np.testing.assert_allclose(found.values, oracle, rtol=1e-5, atol=1e-5)
            lookup.refresh()
            lookup.wait(views=True)
        assert np.isfinite(np.load(path)).all()
        np.testing.assert_allclose(np.load(path), oracle, rtol=1e-5, atol=1e-5)


def test_a_table_that_comes_into_force_gets_its_own_views(pinned, tmp_path):
    space = pinned.space(SPACE)
    promote(space, 1)
    with opened(pinned, tmp_path) as lookup:
        assert views(tmp_path) == ["item 1→0", "user 1→0"]
        promote(space, 2)
        lookup.refresh()
        assert lookup.vectors(SPACE, "user", [5], version=0).source_version == 2
        lookup.wait(views=True)
        lookup.refresh()
        assert views(tmp_path) == ["item 2→0", "user 2→0"]


def test_views_take_no_more_bytes_than_allowed_and_used_ones_stay(registry, tmp_path):
    most = 4 * len(USERS) * DIMS[1]
    with opened(registry, tmp_path, views_max_bytes=most) as lookup:
        ask_enough(lookup, "user", 0)
        assert views(tmp_path) == ["user 2→0"]
        ask_enough(lookup, "user", 1)
        assert views(tmp_path) == ["user 2→0"]
        clock = lookup.shelf._views._clock
        lookup.shelf._views._clock = lambda: clock() + 3600
        lookup.vectors(SPACE, "user", [5], version=1)
        lookup.shelf._views.demand(SPACE, "user", 1).used += 3600
        lookup.refresh()
        lookup.wait(views=True)
        assert views(tmp_path) == ["user 2→1"]


def test_without_free_disk_the_product_answers(pinned, tmp_path, monkeypatch, caplog):
    opened(pinned, tmp_path, views_max_bytes=0).close()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with opened(pinned, tmp_path) as lookup, caplog.at_level(logging.WARNING):
        assert lookup.vectors(SPACE, "user", [5], version=0).values.shape == (1, DIMS[0])
        assert lookup.ready() == {}
    assert views(tmp_path) == []
    assert "bytes free" in caplog.text


def test_look_ups_and_switches_go_on_while_a_view_is_made(pinned, tmp_path, monkeypatch):
    go, started, write = threading.Event(), threading.Event(), views_module._write

    def waiting(*arguments):
        started.set()
        assert go.wait(30)
        write(*arguments)

    monkeypatch.setattr(views_module, "_write", waiting)
    space = pinned.space(SPACE)
    promote(space, 1)
    with Lookup(pinned, cache=tmp_path / "cache", grace=0) as lookup:
        assert started.wait(30)
        assert lookup.vectors(SPACE, "user", [5], version=0).source_version == 1
        promote(space, 2)
        assert lookup.refresh() == [SPACE]
        assert lookup.vectors(SPACE, "user", [5], version=0).source_version == 2
        go.set()
        lookup.wait(views=True)


def test_answers_can_be_pickled_where_the_server_does_so(registry, tmp_path):
    app = build_app(opened(registry, tmp_path), auth="off")
    app.state.pickled = True
    sent = []

    async def receive():
        return {"type": "http.request", "body": b'{"ids": [5, 40], "version": 0}'}

    async def send(message):
        sent.append(pickle.loads(pickle.dumps(message)))

    path = f"/v1/spaces/{SPACE}/user/lookup"
    call = app(
        {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
            "query_string": b"", "headers": [(b"accept", b"application/octet-stream")],
        },
        receive,
        send,
    )  # fmt: skip
    asyncio.run(call)
    assert sent[0]["status"] == 200
    values = np.frombuffer(sent[1]["body"], "<f4").reshape(2, DIMS[0])
    oracle = slowly("user", [5, 40], version=0, source=2)
    np.testing.assert_allclose(values, oracle, rtol=1e-5, atol=1e-5)
