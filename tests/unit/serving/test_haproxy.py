"""What is changed of Ray Serve 2.60: HAProxy's configuration, and the port of a replica."""

import contextlib
import inspect
import os
import re
import subprocess
from importlib import import_module
from pathlib import Path

import httpx
import orjson
import pytest
import ray
from ray._common import tls_utils

from backstay.errors import ServiceError
from backstay.serving import haproxy, haproxy_launcher, loopback
from backstay.serving.busy import CALLBACK, middlewares
from backstay.serving.client import Client
from backstay.serving.ray_serve import serve
from backstay.serving.tls import Certificate
from tests.support.certificates import self_signed
from tests.support.processes import free_port
from tests.support.served import SPACE, listening

haproxy_templates = import_module(f"{serve.__name__}._private.haproxy_templates")
replica = import_module(f"{serve.__name__}._private.replica")

CONFIG = """\
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
listen stats
  bind *:8404
  errorfile 503 {folder}/500.http
"""


def test_ray_s_template_binds_what_the_launcher_expects():
    binds = re.findall(r"^\s*bind (.*)$", haproxy_templates.HAPROXY_CONFIG_TEMPLATE, re.MULTILINE)
    assert binds == [
        ":{{ config.metrics_port }}",
        "{{ config.frontend_host }}:{{ config.frontend_port }}",
        "{{ config.grpc_frontend_host }}:{{ config.grpc_frontend_port }} proto h2",
        "*:{{ config.stats_port }}",
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_only_the_service_s_port_is_bound_to_the_host(host):
    config = haproxy_launcher.rebind(CONFIG, host=host, port=8000)
    binds = [line.split()[1] for line in config.splitlines() if "bind" in line]
    assert binds == ["127.0.0.1:9101", f"{host}:8000", "127.0.0.1:8404"]
    assert re.sub(r"bind \S+", "", config) == re.sub(r"bind \S+", "", CONFIG)


def test_a_certificate_is_for_the_service_s_port_alone():
    config = haproxy_launcher.rebind(CONFIG, host="0.0.0.0", port=8000, certificate="/a b/tls.pem")
    lines = [line.strip() for line in config.splitlines() if "bind" in line]
    assert lines == [
        "bind 127.0.0.1:9101",
        'bind 0.0.0.0:8000 ssl crt "/a b/tls.pem" alpn h2,http/1.1',
        "bind 127.0.0.1:8404",
    ]


def test_ray_starts_haproxy_with_a_changed_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(haproxy, "binary", lambda: "/bin/echo")
    variables = haproxy.environment(tmp_path, host="0.0.0.0", port=8000)
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.format(folder=tmp_path))
    command = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config), "-sf", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == command[1:]
    assert "bind 0.0.0.0:8000" in config.read_text()
    head, _, body = (tmp_path / "500.http").read_bytes().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert f"Content-Length: {len(body)}".encode() in head
    assert orjson.loads(body)["status"] == 503


@pytest.mark.skipif(haproxy.binary() is None, reason="Ray brings no HAProxy for this machine")
def test_haproxy_answers_https_with_the_certificate(tmp_path, url):
    certificate = Certificate(*self_signed(tmp_path))
    port, served = free_port(), url.removeprefix("http://")
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n  mode http\n  timeout client 5s\n  timeout connect 5s\n  timeout server 5s\n"
        f"frontend http_frontend\n  bind 127.0.0.1:{port}\n  default_backend replicas\n"
        f"backend replicas\n  server one {served}\n"
    )
    variables = haproxy.environment(tmp_path, host="127.0.0.1", port=port, certificate=certificate)
    command = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)]
    with subprocess.Popen(command) as process:
        try:
            with Client(f"https://127.0.0.1:{port}", verify=certificate.cert) as client:
                assert client.lookup(SPACE, "user", [5]).version == 2
            with pytest.raises(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/healthz")
        finally:
            process.terminate()


def not_found_of_ray():
    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE
    (line,) = re.findall(r"backend default_backend\n(.* status 404 .*)", template)
    return line


@pytest.mark.skipif(haproxy.binary() is None, reason="Ray brings no HAProxy for this machine")
def test_haproxy_that_has_no_replica_yet_asks_to_come_again(tmp_path):
    port = free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n  mode http\n  timeout client 5s\n  timeout connect 5s\n  timeout server 5s\n"
        f"  errorfile 503 {tmp_path}/500.http\n"
        f"frontend http_frontend\n  bind 127.0.0.1:{port}\n  default_backend default_backend\n"
        f"backend default_backend\n{not_found_of_ray()}\n"
    )
    variables = haproxy.environment(tmp_path, host="127.0.0.1", port=port)
    command = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)]
    transport = httpx.HTTPTransport(retries=8)  # until it listens
    with subprocess.Popen(command) as process, httpx.Client(transport=transport) as client:
        try:
            answer = client.get(f"http://127.0.0.1:{port}/v1/spaces/movies/user/5")
        finally:
            process.terminate()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["status"] == 503


async def busy(scope, _receive, send):
    """Answers as Ray Serve does beyond its limits, or as Backstay does."""
    status, _, kind = scope["path"].strip("/").partition("/")
    headers = [(b"content-type", b"application/" + kind.encode())]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": b"Request ", "more_body": True})
    await send({"type": "http.response.body", "body": b"dropped"})


@contextlib.contextmanager
def behind_haproxy(folder):
    port = free_port()
    config = folder / "haproxy.cfg"
    with listening(busy) as url:
        config.write_text(
            "defaults\n  mode http\n  timeout client 5s\n  timeout connect 5s\n"
            f"  timeout server 5s\nfrontend http_frontend\n  bind 127.0.0.1:{port}\n"
            f"  default_backend replicas\nbackend replicas\n  server one {url[7:]}\n"
        )
        variables = haproxy.environment(folder, host="127.0.0.1", port=port)
        command = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)]
        with subprocess.Popen(command) as process:
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


@contextlib.contextmanager
def behind_serve_s_proxy(_folder):
    (middleware,) = middlewares()
    with listening(middleware.cls(busy)) as url:
        yield url


@pytest.mark.parametrize("proxied", [
    pytest.param(behind_haproxy, marks=pytest.mark.skipif(
        haproxy.binary() is None, reason="Ray brings no HAProxy for this machine")),
    behind_serve_s_proxy,
])  # fmt: skip
def test_a_refusal_of_ray_serve_becomes_a_problem_document(tmp_path, proxied):
    transport = httpx.HTTPTransport(retries=8)  # until it listens
    with proxied(tmp_path) as url, httpx.Client(base_url=url, transport=transport) as client:
        answer = client.get("/503/text")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["type"] == "urn:backstay:problem:overloaded"
        for path in ("/503/problem+json", "/200/text", "/500/text"):
            answer = client.get(path)
            assert (answer.status_code, answer.text) == (int(path[1:4]), "Request dropped")


def test_ray_serve_loads_the_middleware():
    module, _, name = CALLBACK.partition(":")
    assert getattr(import_module(module), name) is middlewares
    http_util = import_module(f"{serve.__name__}._private.http_util")
    assert http_util.validate_http_proxy_callback_return(middlewares())


def test_a_variable_that_is_set_stays_but_haproxy_is_started_by_the_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_METRICS_PORT", "9101")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/bin/echo")
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    variables = haproxy.environment(tmp_path, host="127.0.0.1", port=8000)
    assert variables["RAY_SERVE_HAPROXY_METRICS_PORT"] == "9101"
    assert variables["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    launcher = Path(variables["RAY_SERVE_HAPROXY_BINARY_PATH"])
    assert launcher.parent == tmp_path
    assert "/bin/echo 127.0.0.1 8000" in launcher.read_text()
    assert os.access(launcher, os.X_OK)


def test_a_machine_without_haproxy_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(haproxy, "binary", lambda: None)
    with pytest.raises(ServiceError, match=r"found none.*--no-ha-proxy"):
        haproxy.environment(tmp_path, host="127.0.0.1", port=8000)


def test_ray_binds_a_replica_s_port_as_the_override_expects():
    source = inspect.getsource(replica)
    assert source.count('add_port_to_grpc_server(self._server, "[::]:0")') == 1
    assert replica.add_port_to_grpc_server is tls_utils.add_port_to_grpc_server


@pytest.mark.parametrize(
    ("node", "expected"), [("127.0.0.1", "127.0.0.1:0"), ("10.0.0.7", "[::]:0")]
)
def test_a_replica_s_port_goes_to_the_loopback_where_its_node_is(monkeypatch, node, expected):
    taken = []
    record = lambda _server, address: taken.append(address) or 1  # noqa: E731
    monkeypatch.setattr(tls_utils, "add_port_to_grpc_server", record)
    monkeypatch.setattr(replica, "add_port_to_grpc_server", record)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: node)
    loopback.bind_replica()
    replica.add_port_to_grpc_server(None, "[::]:0")
    assert taken == [expected]
