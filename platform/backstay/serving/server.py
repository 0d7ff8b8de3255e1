"""Runs the look-up service on Ray Serve until it is stopped, on a private Ray by default."""

import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import ray

from backstay.cluster.output import log_prints, quiet_ray
from backstay.cluster.session import ray_session, starts_ray, temporary_root
from backstay.errors import ServiceError, UsageError
from backstay.registry.store import Registry
from backstay.serving import haproxy
from backstay.serving.access_log import OFF
from backstay.serving.busy import CALLBACK
from backstay.serving.config import MAX_IDS, ServiceConfig
from backstay.serving.exposure import auth_for
from backstay.serving.loopback import LOOPBACK
from backstay.serving.preflight import absolute, check_published, log_target
from backstay.serving.ray_serve import serve
from backstay.serving.service import (
    APP,
    MAX_ONGOING_REQUESTS,
    MAX_QUEUED_REQUESTS,
    LookupService,
    bound,
)
from backstay.serving.signals import LateError, limited, stop_once, until_stopped
from backstay.serving.tls import Certificate

logger = logging.getLogger("backstay.serving")

_ANY = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 (the addresses of all interfaces)
# Replicas stop within 10 s. Ray Serve itself waits 30 s where its controller does not answer.
_STOP_SECONDS = 12.0
_OBJECT_STORE_BYTES = 100 << 20  # rows of shards go through it, nothing else does
# Seconds. Ray replaces a proxy after three failed checks; its own 10 are half a minute without one.
_PROXY_CHECKS = {"RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1"}


class Service(AbstractContextManager["Service"]):
    """A running service. `stop`, or the end of a `with`, stops it."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.url = url
        self._stack = stack

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the service, and Ray if the service started it; wait until both have stopped."""
        self._stack.close()


def run(
    registry_uri: str | Path,
    *,
    host: str = LOOPBACK,
    port: int = 8000,
    replicas: int = 1,
    shards: int = 1,
    spaces: Collection[str] | None = None,
    cache: str | Path | None = None,
    refresh_seconds: float = 5.0,
    max_ids: int = MAX_IDS,
    access_log: str | Path = OFF,
    max_ongoing_requests: int = MAX_ONGOING_REQUESTS,
    max_queued_requests: int = MAX_QUEUED_REQUESTS,
    ha_proxy: bool | None = None,
    wait_for_registry: bool = False,
    auth: bool | None = None,
    views_max_bytes: int | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    blocking: bool = True,
    on_ready: Callable[[str], None] | None = None,
) -> Service:
    """Serve a registry's look-ups over HTTP on Ray Serve.

    Uses the cluster that this process is connected to, else the one in RAY_ADDRESS. Otherwise it
    starts a private Ray, as small as possible, and stops it at the end. Of a private Ray, only the
    service's own port can listen beyond the loopback.

    Args:
        registry_uri: The registry's root, a path or URL.
        host: Address to listen on; 0.0.0.0: all interfaces.
        port: Port to listen on; 0: any free one.
        replicas: Processes that answer requests.
        shards: Parts to divide each table into, by a hash of the id; each has a process of its own
            with 1/shards of the rows. 1: each replica has whole tables.
        spaces: The spaces to serve; None: all.
        cache: Local folder for copies of the newest tables; see `default_cache`.
        refresh_seconds: Seconds between two checks for new versions.
        max_ids: Most ids in one request.
        access_log: File for a line of JSON per request; `-`: standard output; `off`: none.
        max_ongoing_requests: Most requests that one replica answers at the same time.
        max_queued_requests: Most requests that wait; the next one is answered with 503.
        ha_proxy: Whether HAProxy distributes the requests, instead of Ray Serve's own proxy. None:
            RAY_SERVE_ENABLE_HA_PROXY, else where Ray brings one. A Ray that already runs has
            decided that when it started.
        wait_for_registry: Start without a published version, and wait for one.
        auth: Whether requests need an access token; None: beyond the loopback, and on it once a
            token was made.
        views_max_bytes: Most bytes of disk on each host for tables converted ahead to older
            versions. None: as many as the tables have that they are made from. 0: none.
        tls_cert: File with the certificate and its chain, in PEM, to serve https. Needs a private
            Ray.
        tls_key: File with the certificate's private key, in PEM.
        blocking: Return after SIGTERM or SIGINT, when everything has stopped; otherwise return
            as soon as the service is ready. Only the main thread may block.
        on_ready: Called with the service's URL when it is ready.

    Raises ServiceError if the port is taken or Ray Serve already runs on the cluster, and
    InputError if the registry has no published version. Raises UsageError if tokens are required
    and there is none.
    """
    uri = absolute(registry_uri)
    config = ServiceConfig.parse(
        {
            "registry": uri,
            "cache": str(Path(cache).absolute()) if cache else None,
            "refresh_seconds": refresh_seconds,
            "max_ids": max_ids,
            "access_log": log_target(str(access_log)),
            "auth": auth_for(Registry(uri), host=host, auth=auth),
            "views_max_bytes": views_max_bytes,
            "shards": shards,
            "spaces": tuple(sorted(set(spaces))) if spaces else None,
        }
    )
    if replicas < 1:
        raise UsageError(f"replicas must be at least 1; found {replicas}.")
    certificate = _certificate(tls_cert, tls_key)
    check_published(uri, config.spaces, wait=wait_for_registry)
    deployment = LookupService.options(
        num_replicas=replicas,
        max_ongoing_requests=max_ongoing_requests,
        max_queued_requests=max_queued_requests,
    )
    stop_seconds = _STOP_SECONDS if starts_ray() else None  # others may use the Ray of a cluster
    with ExitStack() as stack:
        if blocking:
            stack.enter_context(until_stopped())
        stack.enter_context(quiet_ray())
        port = stack.enter_context(_reserved(host, port))
        named = _ANY.get(host, host)
        scheme = "https" if certificate else "http"
        url = f"{scheme}://{f'[{named}]' if ':' in named else named}:{port}"
        environment, options = _proxy(
            stack, ha_proxy=ha_proxy, host=host, port=port, certificate=certificate
        )
        with log_prints():
            stack.enter_context(
                ray_session(
                    cpus=replicas + (shards if shards > 1 else 0),
                    object_store_bytes=_OBJECT_STORE_BYTES * (4 if shards > 1 else 1),
                    environment={n: os.environ.get(n, value) for n, value in _PROXY_CHECKS.items()}
                    | environment,
                )
            )
            if blocking:
                stop_once()  # Ray replaced the handlers with its own
            stack.callback(_shut_down, blocking=blocking, seconds=stop_seconds)
            _deploy(config, deployment, options)
        logger.info("serving %s at %s", uri, url)
        if on_ready:
            on_ready(url)
        if not blocking:
            return Service(url, stack.pop_all())
        with log_prints():
            threading.Event().wait()
    logger.info("stopped")
    return Service(url, stack)


def _certificate(cert: str | Path | None, key: str | Path | None) -> Certificate | None:
    certificate = Certificate.of(cert, key)
    if certificate and not starts_ray():
        raise UsageError(
            "expected to start a private Ray for --tls-cert, found one that already runs, whose "
            "proxy may not use it. Unset RAY_ADDRESS, or put a proxy with TLS in front."
        )
    return certificate


def _proxy(
    stack: ExitStack,
    *,
    ha_proxy: bool | None,
    host: str,
    port: int,
    certificate: Certificate | None,
) -> tuple[dict[str, str], dict[str, str | int]]:
    """Variables for a private Ray's processes, and the HTTP options of Ray Serve."""
    options: dict[str, str | int] = {"host": host, "port": port, "request_timeout_s": 30}
    switch = "RAY_SERVE_ENABLE_HA_PROXY"
    if not starts_ray():
        if ha_proxy is not None:
            raise UsageError(
                "expected to start a private Ray for --ha-proxy or --no-ha-proxy, found one that "
                f"already runs. Set {switch} to 1 or 0 where that Ray starts, and leave out both."
            )
        return {}, options
    if ha_proxy is None:
        given = os.environ.get(switch)
        ha_proxy = given == "1" if given else haproxy.binary() is not None
    if not ha_proxy:
        if certificate:
            options |= {
                "ssl_certfile": str(certificate.cert), "ssl_keyfile": str(certificate.key)
            }  # fmt: skip
        return {switch: "0", "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": CALLBACK}, options
    folder = tempfile.TemporaryDirectory(
        prefix="bs-", dir=temporary_root(), ignore_cleanup_errors=True
    )
    path = Path(stack.enter_context(folder))
    environment = haproxy.environment(path, host=host, port=port, certificate=certificate)
    return environment, options | {"host": LOOPBACK}


def _deploy(
    config: ServiceConfig, deployment: serve.Deployment, options: dict[str, str | int]
) -> None:
    if serve.status().proxies:
        raise ServiceError(
            "expected a cluster without Ray Serve, found Serve running on it. Deploy with "
            "`serve deploy serve/cluster.yaml`, or unset RAY_ADDRESS."
        )
    logging_config = {"encoding": "JSON", "enable_access_log": False}
    serve.start(proxy_location="HeadOnly", http_options=options, logging_config=logging_config)
    deployment = deployment.options(logging_config=logging_config)
    serve.run(bound(config, deployment), name=APP, route_prefix="/")


def _shut_down(*, blocking: bool, seconds: float | None) -> None:
    """Stop Ray Serve after the requests in flight; wait at most `seconds` for that, if given."""
    if not ray.is_initialized():
        return
    try:
        with log_prints(), limited(seconds):
            if blocking:
                stop_once()
            serve.shutdown()
    except KeyboardInterrupt:
        logger.warning("stopped at once; unfinished requests are lost")
    except LateError:
        logger.warning("Ray Serve has not stopped within %g s; its processes are killed", seconds)
    except Exception as error:  # noqa: BLE001 - whatever a dead controller or network raises
        logger.warning("Ray Serve did not stop in order: %s", error)


@contextmanager
def _reserved(host: str, port: int) -> Iterator[int]:
    """Keep the port from every program but Ray's proxies; yields it, or a free one for 0.

    The proxies bind with SO_REUSEPORT. Without this socket, two services that start together
    would share one port.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a service that has ended
        try:
            held.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"cannot listen on {host}:{port} ({error.strerror}). Choose another --port; "
                "--port 0 takes any free one."
            ) from error
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield int(held.getsockname()[1])
