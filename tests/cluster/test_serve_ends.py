"""How the service starts, stops and recovers, as processes of their own."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from backstay.errors import ServiceError
from backstay.serving.client import Client
from tests.support import served
from tests.support.processes import run_python
from tests.support.running_service import SECONDS, Running, eventually
from tests.support.served import SPACE, USERS, slowly


def answers(client, *, source=1):
    """Whether version 0 is answered, and then rightly."""
    try:
        _, values = client.lookup(SPACE, "user", USERS.tolist(), version=0)
    except ServiceError:
        return False
    expected = slowly("user", USERS.tolist(), version=0, source=source)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    return True


def test_sigterm_while_it_starts_leaves_nothing(tmp_path, short_folder):
    with Running(tmp_path, folder=short_folder) as service:
        eventually(lambda: service.processes("raylet"))
        assert service.terminate() == ""
        assert service.process.returncode == 0, service.log.read_text()
        eventually(lambda: not service.processes())
        assert list(Path(short_folder).iterdir()) == []


def test_a_second_sigterm_stops_at_once_and_leaves_nothing(tmp_path, short_folder):
    with Running(tmp_path, folder=short_folder) as service:
        service.wait_until_ready()
        assert service.terminate(times=2) == ""
        assert service.process.returncode == 0, service.log.read_text()
        eventually(lambda: not service.processes())
        assert list(Path(short_folder).iterdir()) == []


def test_killing_haproxy_or_its_manager_is_repaired_and_killing_the_service_ends_all(
    tmp_path, short_folder
):
    with Running(tmp_path, folder=short_folder, ha_proxy=True) as service:
        service.wait_until_ready()
        with Client(service.url, retries=30) as client:
            assert answers(client)
            for name in ("haproxy.cfg", "HAProxyManager"):
                killed = service.processes(name)
                proxies = service.processes("haproxy.cfg")
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
                eventually(lambda proxies=proxies: not {*proxies} & {*service.processes()})
                eventually(lambda: answers(client))
        service.process.kill()
        service.process.wait()
        eventually(lambda: not service.processes())


def test_a_registry_without_a_version_is_refused_or_waited_for(tmp_path, short_folder):
    command = ["-m", "backstay", "serve", "--registry", str(tmp_path / "registry")]
    done = run_python(*command, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"found none at {tmp_path / 'registry'}" in done.stderr
    assert "--wait-for-registry" in done.stderr
    assert not (tmp_path / "registry").exists()

    with Running(tmp_path, versions=0, folder=short_folder, wait_for_registry=True) as service:
        with Client(service.wait_until_ready().url) as client:
            assert client.spaces() == []
            served.publish(service.registry, 0)
            eventually(lambda: client.spaces() == [SPACE])
            _, values = client.lookup(SPACE, "user", USERS.tolist(), version=0)
        np.testing.assert_array_equal(values, served.tables_of(0)["user"])


@pytest.mark.parametrize("flag", ["--ha-proxy", "--no-ha-proxy"])
def test_a_cluster_that_runs_has_chosen_its_proxy(tmp_path, monkeypatch, flag):
    served.build(tmp_path, versions=1)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = run_python(
        *("-m", "backstay", "serve", "--registry", str(tmp_path), flag), env=environment
    )
    assert done.returncode == 2
    assert "RAY_SERVE_ENABLE_HA_PROXY" in done.stderr
