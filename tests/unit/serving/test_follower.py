"""Replicas and the service that watches the registry, in one process and without Ray."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest

from backstay.errors import NotReadyError, SourceChangedError
from backstay.registry.aliases import promote, rollback
from backstay.serving import watch_service as watching
from backstay.serving.follower import Follower
from backstay.serving.lookup import Lookup
from backstay.serving.watch_service import WatchService
from tests.support import served
from tests.support.served import SPACE, USERS, slowly

SECONDS = 30


class Direct:
    """The calls of a replica, without a network; `service` None: nobody answers."""

    def __init__(self, registry, service):
        self.registry = registry
        self.service = service

    async def orders(self, known):
        if self.service is None:
            raise ConnectionError("the actor is dead")
        return await self.service.orders(self.registry.uri, None, 0.05, known)

    async def report(self, report):
        if self.service is None:
            raise ConnectionError("the actor is dead")
        await self.service.report(self.registry.uri, None, 0.05, report)


class Replica:
    def __init__(self, registry, cache, service, name):
        self.direct = Direct(registry, service)
        self.lookup = Lookup(registry, cache=cache, load=False)
        self.follower = Follower(self.lookup, self.direct, replica=name)
        self.follower.start()

    def source(self, **options):
        """The version that answers; the vectors must be right."""
        found = self.lookup.vectors(SPACE, "user", USERS.tolist(), version=0, **options)
        expected = slowly("user", USERS.tolist(), version=0, source=found.source_version)
        np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-5)
        return found.source_version


@asynccontextmanager
async def replicas(registry, tmp_path, count=2):
    """A service and replicas that are ready, each with a cache of its own."""
    service = WatchService()
    started = [Replica(registry, tmp_path / f"cache-{n}", service, f"r{n}") for n in range(count)]
    try:
        for replica in started:
            await replica.follower.ready(seconds=SECONDS)
        yield service, started
    finally:
        for replica in started:
            replica.follower.stop()
        await stopped(service)


async def stopped(service):
    tasks = [watched.task for watched in service._watched.values()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def eventually(happened):
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.fixture
def registry(tmp_path):
    registry = served.build(tmp_path / "registry", versions=3)
    promote(registry.space(SPACE), 1)
    return registry


def test_replicas_switch_together_and_every_call_keeps_its_source(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "_SETTLE_SECONDS", 0.02)
    space = registry.space(SPACE)
    mixed = []

    async def ask(a, b, done):
        """Calls of two pages, of which each replica answers one."""
        while not done.is_set():
            first = a.source()
            mixed.append(first != b.source(source=first))
            a, b = b, a
            await asyncio.sleep(0.001)

    async def check():
        async with replicas(registry, tmp_path) as (_, (a, b)):
            assert (a.source(), b.source()) == (1, 1)
            done = asyncio.Event()
            asking = asyncio.create_task(ask(a, b, done))
            for move, version in [
                (lambda: promote(space, 2), 2),
                (lambda: rollback(space), 1),
                (lambda: promote(space, 0), 0),
            ]:
                move()
                await eventually(lambda v=version: a.source() == b.source() == v)
            done.set()
            await asking

    asyncio.run(check())
    assert len(mixed) > 100
    assert not any(mixed)


def test_no_replica_answers_from_a_table_that_another_has_not_prepared(registry, tmp_path):
    """The second replica copies slowly: until it is done, both answer from the table before."""
    copying, go_on = threading.Event(), threading.Event()

    async def check():
        async with replicas(registry, tmp_path) as (_, (a, b)):
            load = b.lookup.shelf._tables._load

            def slowly(key):
                copying.set()
                assert go_on.wait(SECONDS)
                return load(key)

            b.lookup.shelf._tables._load = slowly
            promote(registry.space(SPACE), 2)
            await eventually(copying.is_set)
            await eventually(lambda: SPACE in a.lookup.shelf.report("a").prepared)
            for _ in range(20):
                assert (a.source(), b.source()) == (1, 1)
                await asyncio.sleep(0.02)
            go_on.set()
            await eventually(lambda: a.source() == b.source() == 2)

    asyncio.run(check())


def test_without_the_watching_service_replicas_go_on_and_its_successor_takes_over(
    registry, tmp_path
):
    async def check():
        async with replicas(registry, tmp_path) as (service, (a, b)):
            a.direct.service = b.direct.service = None
            await stopped(service)
            promote(registry.space(SPACE), 2)
            await asyncio.sleep(0.2)
            assert (a.source(), b.source()) == (1, 1)
            successor = WatchService()
            a.direct.service = b.direct.service = successor
            await eventually(lambda: a.source() == b.source() == 2)
            await stopped(successor)

    asyncio.run(check())


def test_a_replica_that_starts_later_answers_what_the_others_answer(registry, tmp_path):
    async def check():
        async with replicas(registry, tmp_path, count=1) as (service, (a,)):
            late = Replica(registry, tmp_path / "cache-late", service, "late")
            with pytest.raises(NotReadyError, match="not been read yet"):
                late.source()
            assert late.lookup.ready() == {"registry": "it has not been read yet."}
            await late.follower.ready(seconds=SECONDS)
            assert (a.source(), late.source()) == (1, 1)
            assert late.lookup.ready() == {}
            late.follower.stop()

    asyncio.run(check())


def test_a_registry_that_hangs_stops_neither_answers_nor_a_restarted_replica(
    registry, tmp_path, monkeypatch
):
    away, back = threading.Event(), threading.Event()
    from backstay.storage.files import LocalFiles  # noqa: PLC0415

    read, folders = LocalFiles.read, LocalFiles.folders

    def hanging(original):
        def call(*args):
            if away.is_set():
                assert back.wait(SECONDS)
            return original(*args)

        return call

    monkeypatch.setattr(LocalFiles, "read", hanging(read))
    monkeypatch.setattr(LocalFiles, "folders", hanging(folders))

    async def check():
        async with replicas(registry, tmp_path) as (service, (a, b)):
            away.set()
            b.follower.stop()
            again = Replica(registry, tmp_path / "cache-1", service, "r1")
            await again.follower.ready(seconds=SECONDS)
            for _ in range(20):
                assert (a.source(), again.source()) == (1, 1)
                await asyncio.sleep(0.01)
            back.set()
            promote(registry.space(SPACE), 2)
            await eventually(lambda: a.source() == again.source() == 2)
            again.follower.stop()

    asyncio.run(check())


def test_a_source_that_is_gone_is_a_conflict_and_one_that_is_to_come_is_not(registry, tmp_path):
    async def check():
        async with replicas(registry, tmp_path, count=1) as (_, (a,)):
            with pytest.raises(NotReadyError, match="version 3 of space 'movies' is not taken up"):
                a.source(source=3)
            with pytest.raises(SourceChangedError, match="version 1 answers now") as caught:
                a.lookup.vectors(SPACE, "user", [5], version=1, source=0)
            assert caught.value.present == 1

    asyncio.run(check())
