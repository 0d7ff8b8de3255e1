"""Two replicas through promotions and deaths: each call is answered from one right table."""

import itertools
import os
import signal
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from backstay.registry.aliases import promote, rollback
from backstay.serving.client import Client
from tests.support.running_service import Running, eventually
from tests.support.served import ITEMS, SPACE, USERS, slowly

REPLICAS = "ServeReplica:backstay:lookup"
WATCH = "ServeReplica:backstay:watch"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Running(tmp_path_factory.mktemp("rollout"), versions=3, replicas=2) as running:
        promote(running.registry.space(SPACE), 1)
        yield running.wait_until_ready()


def source_of(client, entity, asked):
    """The version that answered for version 0; the vectors must be those of its table."""
    found = client.lookup(SPACE, entity, asked, version=0)
    assert found.ids.tolist() == asked
    expected = slowly(entity, asked, version=0, source=found.source_version)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-5)
    return found.source_version


@contextmanager
def asking(service):
    """Threads that ask in pages of two ids all the time; what answered, and what failed."""
    sources, failures, stop = [], [], threading.Event()

    def ask(entity, asked):
        with Client(service.url, batch=2, retries=30, deadline=60) as client:
            while not stop.is_set():
                try:
                    sources.append(source_of(client, entity, asked))
                except Exception as error:  # noqa: BLE001
                    failures.append(error)

    threads = [
        threading.Thread(target=ask, args=arguments)
        for arguments in (("user", USERS.tolist()), ("item", ITEMS))
    ]
    for thread in threads:
        thread.start()
    try:
        yield sources
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def takes_up(service, version):
    """Wait until both replicas have answered from a version, and none from another since."""
    with Client(service.url) as client:
        eventually(
            lambda: {source_of(client, "user", USERS.tolist()) for _ in range(20)} == {version}
        )


def test_promotions_under_load_give_no_wrong_and_no_mixed_answer(service):
    space = service.registry.space(SPACE)
    takes_up(service, 1)
    with asking(service) as sources:
        for move, version in [
            (lambda: promote(space, 2), 2),
            (lambda: rollback(space), 1),
            (lambda: promote(space, 0), 0),
            (lambda: promote(space, 1), 1),
        ]:
            move()
            takes_up(service, version)
    assert {0, 1, 2} <= set(sources)
    turns = [version for version, _ in itertools.groupby(sources)]
    assert len(turns) < 20  # versions do not alternate with the replica that answers


def test_a_killed_replica_and_a_killed_watcher_cost_no_answer(service):
    space = service.registry.space(SPACE)
    takes_up(service, 1)
    killed = service.processes(REPLICAS)[0]
    (watch,) = service.processes(WATCH)
    with asking(service) as sources:
        os.kill(killed, signal.SIGKILL)
        os.kill(watch, signal.SIGKILL)
        promote(space, 2)
        before = len(sources)
        eventually(lambda: len(sources) > before + 10)
        eventually(lambda: killed not in (alive := service.processes(REPLICAS)) and len(alive) == 2)
        eventually(lambda: service.processes(WATCH) not in ([], [watch]))
        takes_up(service, 2)
    assert set(sources) <= {1, 2}
