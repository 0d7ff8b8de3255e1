"""The service on Ray Serve, in a process of its own: answers, recovery, and a clean end."""

import os
import signal
import socket
import subprocess
import time

import httpx
import numpy as np
import pytest
import yaml

from backstay.errors import ServiceError, UsageError
from backstay.serving import server
from backstay.serving import service as on_serve
from backstay.serving.client import Client
from backstay.serving.config import ServiceConfig
from tests.support import served
from tests.support.processes import ROOT, environment, pids_of, run_python, start_python
from tests.support.served import ITEMS, SPACE, USERS, slowly

CONFIG = ROOT / "serve" / "config.yaml"
SECONDS = 120  # how long anything here may take

RUN = """
import sys
from backstay.serving.server import run
run(sys.argv[1], port=0, cache=sys.argv[2], refresh_seconds=0.5,
    on_ready=lambda url: print(url, flush=True))
"""

IN_A_SESSION = """
import sys
from backstay.cluster.session import ray_session
from backstay.serving.server import run
with ray_session(cpus=1), run(sys.argv[1], port=0, cache=sys.argv[2], blocking=False):
    pass
"""


class Running:
    """The service's process, and whatever it has started."""

    def __init__(self, root):
        self.registry = served.build(root / "registry", versions=2)
        self.root = root
        self.log = root / "log"
        with self.log.open("wb") as log:
            self.process = start_python(
                *("-c", RUN, root / "registry", root / "cache"),
                env=environment(BACKSTAY_TEST_MARK=str(root)),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http"), self.log.read_text()

    def processes(self, name=""):
        """All its processes, which inherit its environment, or those of a name."""
        return pids_of(self.root, name=name, variable="BACKSTAY_TEST_MARK")

    def replicas(self):
        return self.processes("ServeReplica:backstay:lookup")

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=SECONDS)
        return said


def eventually(what):
    until = time.monotonic() + SECONDS
    while not (answer := what()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)
    return answer


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("service"))
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.terminate()


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


def test_problems_and_headers_pass_through_the_proxy(service):
    response = httpx.get(f"{service.url}/v1/spaces/{SPACE}/user/41?version=0")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.headers["Backstay-Version"], response.headers["Backstay-Source-Version"]) == (
        "0",
        "2",
    )


def test_a_killed_replica_is_replaced(service):
    (killed,) = eventually(service.replicas)
    # Until Serve has noticed, it answers 500 for the dead replica; the client asks again.
    with Client(service.url, retries=100, deadline=SECONDS) as client:
        client.spaces()
        os.kill(killed, signal.SIGKILL)
        check_version_0(client, source=2)
    assert killed not in service.replicas()


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


def test_the_config_file_names_what_the_code_has():
    (application,) = yaml.safe_load(CONFIG.read_text())["applications"]
    (deployment,) = application["deployments"]
    ServiceConfig.parse(deployment["user_config"])
    assert deployment["name"] == on_serve.DEPLOYMENT
    assert application["name"] == on_serve.APP
    module, _, attribute = application["import_path"].partition(":")
    assert getattr(on_serve, attribute).__module__ == module


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"127\.0\.0\.1:{port}.*--port"):
            server.run(tmp_path, port=port)


def test_an_invalid_number_of_replicas_is_refused(tmp_path):
    with pytest.raises(UsageError, match="replicas must be at least 1"):
        server.run(tmp_path, replicas=0)
