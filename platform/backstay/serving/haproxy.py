"""Settings that make a private Ray serve through the HAProxy that comes with Ray."""

import os
import shlex
import socket
import stat
import sys
from contextlib import ExitStack
from pathlib import Path

from backstay.errors import ServiceError
from backstay.serving import haproxy_launcher
from backstay.serving.tls import Certificate

_DRAIN_SECONDS = 1
"""How long a replica that stops still takes requests. Ray waits 30, for outside load balancers."""

_ANSWER_SECONDS = 35
"""When HAProxy gives up on a replica. A replica itself gives up after 30 (`request_timeout_s`)."""


def binary() -> str | None:
    """The path of HAProxy; None where Ray brings none, as on macOS."""
    from ray.serve._private import haproxy  # noqa: PLC0415 (the server has loaded Ray Serve)

    try:
        return str(haproxy.get_haproxy_binary())
    except FileNotFoundError:
        return None


def environment(
    folder: Path, *, host: str, port: int, certificate: Certificate | None = None
) -> dict[str, str]:
    """Variables for Ray's processes. Where this process has one already, that value stays.

    Args:
        folder: A new folder with a short path, for HAProxy's files and sockets.
        host: The address that the service listens on. All other ports are on the loopback.
        port: The port that the service listens on.
        certificate: For TLS on that port; None: without TLS.
    """
    real = binary()
    if real is None:
        raise ServiceError(
            "expected the HAProxy that Ray brings for Linux, found none. Reinstall "
            "'ray[serve]', or serve with --no-ha-proxy."
        )
    launcher = folder / "haproxy"
    shown = ""
    if certificate:
        # HAProxy reads the key from a file of the certificate's name and `.key`.
        shown = str(folder / "tls.pem")
        Path(shown).symlink_to(certificate.cert)
        Path(f"{shown}.key").symlink_to(certificate.key)
    command = [sys.executable, "-I", haproxy_launcher.__file__, real, host, str(port), shown]
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
    statistics, metrics, fallback = _free_ports(3)
    settings = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
        # Ray's own folder is one for all users of the machine. A socket's path, with the node's 56
        # characters and a suffix added, has at most 107 bytes.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "s"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        # Nobody reads this log; Ray's default opens a UDP socket on all interfaces.
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(folder / "log"),
        # Two services on one machine must not share these ports.
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(_ANSWER_SECONDS),
        # The server that starts Ray holds the service's port with SO_REUSEPORT.
        "SERVE_SOCKET_REUSE_PORT_ENABLED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_DRAIN_SECONDS),
    }
    forced = {"RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_HAPROXY_BINARY_PATH"}
    return {name: os.environ.get(name, value) for name, value in settings.items()} | {
        name: settings[name] for name in forced
    }


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]
