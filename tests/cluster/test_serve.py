"""The service on Ray Serve, in a process of its own: answers, recovery, and a clean end."""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from backstay.errors import ServiceError, UsageError
from backstay.serving import server
from backstay.serving.client import Client
from tests.support import served
from tests.support.processes import environment, run_python
from tests.support.running_service import SECONDS, Running, eventually
from tests.support.served import ITEMS, SPACE, USERS, slowly
from tests.support.sockets import exposed

LIMITS = {"max_ongoing_requests": 2, "max_queued_requests": 2}

IN_A_SESSION = """
import sys
from backstay.cluster.session import ray_session
from backstay.serving.server import run
with ray_session(cpus=1), run(sys.argv[1], port=0, cache=sys.argv[2], blocking=False):
    pass
"""


@pytest.fixture(scope="module", params=[True, False], ids=["haproxy", "serve's proxy"])
def service(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("service")
    with Running(root, ha_proxy=request.param, **LIMITS) as running:
        yield running.wait_until_ready()


def check_version_0(client, *, source):
    for entity, asked in (("user", USERS.tolist()), ("item", ITEMS)):
        ids, values = client.lookup(SPACE, entity, asked, version=0)
        assert ids.tolist() == asked
        expected = slowly(entity, asked, version=0, source=source)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_a_version_published_while_it_runs_answers_for_version_0(service):
    with Client(service.url) as client:
        check_version_0(client, source=1)
        served.publish(service.registry, 2)
        eventually(lambda: client.space(SPACE)["latest"] == 2)
        check_version_0(client, source=2)


def test_every_socket_is_on_the_loopback(service):
    assert exposed([service.process.pid, *service.processes()]) == []


def test_requests_beyond_the_limits_are_told_to_come_back(service):
    body = {"ids": [f"unknown {n}" for n in range(10_000)], "version": 0}
    with httpx.Client(base_url=service.url, limits=httpx.Limits(max_connections=64)) as client:

        def ask(_):
            return client.post(f"/v1/spaces/{SPACE}/item/lookup", json=body, timeout=SECONDS)

        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(ask, range(64)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.headers.get("Retry-After") for answer in refused} == {"1"}
    assert {answer.headers["content-type"] for answer in refused} == {"application/problem+json"}
    assert {answer.json()["status"] for answer in refused} == {503}
    with Client(service.url) as client:
        check_version_0(client, source=2)


def test_a_port_in_use_is_named_and_its_service_goes_on(service):
    port = service.url.rpartition(":")[2]
    root = service.root / "registry"
    command = ["-m", "backstay", "serve", "--registry", str(root), "--port", port]
    done = run_python(*command, env=environment(), timeout=SECONDS)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr
    with Client(service.url) as client:
        check_version_0(client, source=2)


def test_problems_and_headers_pass_through_the_proxy(service):
    response = httpx.get(f"{service.url}/v1/spaces/{SPACE}/user/41?version=0")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.headers["Backstay-Version"], response.headers["Backstay-Source-Version"]) == (
        "0",
        "2",
    )


def test_a_killed_replica_is_replaced(service):
    (killed,) = eventually(lambda: service.processes("ServeReplica:backstay:lookup"))
    # Until Serve has noticed, the answer is 500, HAProxy's 503; the client asks again.
    with Client(service.url, retries=100, deadline=SECONDS) as client:
        client.spaces()
        os.kill(killed, signal.SIGKILL)
        check_version_0(client, source=2)
    assert killed not in service.processes("ServeReplica:backstay:lookup")


def test_sigterm_stops_everything(service):
    assert len(service.processes()) > 5
    said = service.terminate()
    assert service.process.returncode == 0, service.log.read_text()
    assert said == ""  # stdout had the URL, and nothing else
    assert service.log.read_text() == ""  # and stderr nothing of Ray's
    eventually(lambda: not service.processes())
    with pytest.raises(httpx.ConnectError):
        httpx.get(service.url)


def test_only_our_own_lines_reach_the_terminal(tmp_path):
    served.build(tmp_path / "registry", versions=1)
    done = run_python(
        *("-c", IN_A_SESSION, tmp_path / "registry", tmp_path / "cache"), timeout=SECONDS
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"127\.0\.0\.1:{port}.*--port"):
            server.run(tmp_path, port=port, wait_for_registry=True)


def test_an_invalid_number_of_replicas_is_refused(tmp_path):
    served.build(tmp_path, versions=1)
    with pytest.raises(UsageError, match="replicas must be at least 1"):
        server.run(tmp_path, replicas=0)
