"""A service of two shards on Ray Serve: answers, a lost shard, and its recovery."""

import contextlib
import os
import signal

import httpx
import numpy as np
import pytest

from backstay.serving.client import Client
from backstay.serving.sharding import shard_of
from tests.support import served
from tests.support.running_service import SECONDS, Running, eventually
from tests.support.served import ITEMS, SPACE, USERS, slowly

LOST = [id_ for id_ in USERS.tolist() if shard_of(np.array([id_]), 2)[0] == 1]
OTHERS = [id_ for id_ in USERS.tolist() if id_ not in LOST]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Running(tmp_path_factory.mktemp("service"), shards=2) as running:
        yield running.wait_until_ready()


def check(client, *, source):
    for entity, asked in (("user", USERS.tolist()), ("item", ITEMS)):
        found = client.lookup(SPACE, entity, asked, version=0)
        assert (found.source_version, found.ids.tolist()) == (source, asked)
        expected = slowly(entity, asked, version=0, source=source)
        np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-5)


def test_a_new_version_is_taken_up_by_all_shards(service):
    with Client(service.url, deadline=SECONDS) as client:
        check(client, source=1)
        served.publish(service.registry, 2)
        eventually(lambda: client.space(SPACE)["latest"] == 2)
        check(client, source=2)


def test_each_shard_has_copies_of_its_own_rows_only(service):
    users = {}
    for folder in (service.root / "cache").iterdir():
        for file in (folder / SPACE / "user").glob("2-*/vectors.npy"):
            users[folder.name.partition(".")[2]] = len(np.load(file))
    assert users == {"of2.0": len(OTHERS), "of2.1": len(LOST)}


def test_a_killed_shard_is_503_for_its_ids_and_comes_back(service):
    path = f"{service.url}/v1/spaces/{SPACE}/user/{LOST[0]}"
    killed = set()

    def refused_after_a_kill():
        for pid in service.processes("ServeReplica:backstay:shard-1"):  # the next one, too
            killed.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        answer = httpx.get(path, timeout=SECONDS)
        return answer if answer.status_code == 503 else None

    refused = eventually(refused_after_a_kill)
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["content-type"] == "application/problem+json"
    with Client(service.url, deadline=SECONDS, retries=1000) as client:
        partial = client.lookup(SPACE, "user", USERS.tolist(), partial=True)
        assert partial.unanswered.tolist() in ([], LOST)  # it may be back already
        assert partial.ids.tolist()[: len(OTHERS)] or partial.ids.tolist() == USERS.tolist()
        assert client.lookup(SPACE, "user", OTHERS).ids.tolist() == OTHERS
        check(client, source=2)
    assert not killed & {*service.processes("ServeReplica:backstay:shard-1")}
