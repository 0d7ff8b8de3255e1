"""Access tokens on Ray Serve: two replicas take them up without a restart."""

import httpx
import pytest

from backstay.registry import contracts, tokens
from backstay.serving.client import Client
from tests.support.builders import contract
from tests.support.running_service import Running, eventually
from tests.support.served import SPACE
from tests.support.sockets import exposed

PATH = f"/v1/spaces/{SPACE}/user/5"
IN_A_ROW = 20  # answers, so that both replicas are among them


@pytest.mark.parametrize("ha_proxy", [True, False], ids=["haproxy", "serve's proxy"])
def test_beyond_the_loopback_only_the_service_s_port_listens(tmp_path, ha_proxy):
    options = {"host": "0.0.0.0", "tokens": ("reader",), "ha_proxy": ha_proxy}
    with Running(tmp_path, **options) as service:
        port = service.wait_until_ready().url.rpartition(":")[2]
        beyond = exposed([service.process.pid, *service.processes()])
        assert {tuple(line.split()[:2]) for line in beyond} == {("0.0.0.0", port)}
        assert httpx.get(f"{service.url}{PATH}").status_code == 401
        headers = {"Authorization": f"Bearer {service.tokens[0]}"}
        assert httpx.get(f"{service.url}{PATH}", headers=headers).status_code == 200


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
