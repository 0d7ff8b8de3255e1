"""Access tokens on Ray Serve: two replicas take them up without a restart."""

import httpx
import pytest

from backstay.registry import contracts, tokens
from backstay.serving.client import Client
from tests.support.builders import contract
from tests.support.running_service import Running, eventually
from tests.support.served import SPACE

PATH = f"/v1/spaces/{SPACE}/user/5"
IN_A_ROW = 20  # answers, so that both replicas are among them


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Running(tmp_path_factory.mktemp("tokens"), versions=3, replicas=2) as running:
        contracts.write(running.registry.space(SPACE), contract("ads", version=1), {})
        yield running.wait_until_ready()


def statuses(service, text=None):
    """The statuses of answers, each on a connection of its own."""
    headers = {"Authorization": f"Bearer {text}"} if text else {}
    return {httpx.get(f"{service.url}{PATH}", headers=headers).status_code for _ in range(IN_A_ROW)}


def test_tokens_are_taken_up_and_refused_by_all_replicas(service):
    assert statuses(service) == {200}  # on the loopback, before the first token
    token, text = tokens.create(service.registry.files, "ranking", consumer="ads")
    eventually(lambda: statuses(service) == {401})
    assert statuses(service, text) == {200}
    with Client(service.url, token=text) as client:
        assert client.lookup(SPACE, "user", [5]).version == 1
        assert client.lookup(SPACE, "user", [5], version="latest").version == 2
    tokens.revoke(service.registry.files, token.id)
    eventually(lambda: statuses(service, text) == {401})
    assert statuses(service) == {401}
