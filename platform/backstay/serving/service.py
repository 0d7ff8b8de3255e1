"""The look-up service on Ray Serve: the deployment, and a small cluster of one's own for it.

Serve's own proxy is the default. With RAY_SERVE_ENABLE_HA_PROXY=1 in the environment before Ray
starts, HAProxy stands in its place and answers small requests about three times as often; it also
opens its statistics and every replica's port on all interfaces, and takes half a minute to stop.
Ray's internal ports listen on all interfaces either way.
"""

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import ray
from anyio import to_thread
from fastapi import FastAPI

from backstay.errors import ServiceError, UsageError
from backstay.registry.store import Registry
from backstay.serving.app import build_app
from backstay.serving.config import MAX_IDS, ServiceConfig, default_cache
from backstay.serving.lookup import Lookup

with warnings.catch_warnings():
    # Ray Serve declares its settings in a way that pydantic has deprecated.
    warnings.filterwarnings(
        "ignore", "Using extra keyword arguments on `Field`", category=DeprecationWarning
    )
    from ray import serve

logger = logging.getLogger("backstay.serving")

APP = "backstay"
DEPLOYMENT = "lookup"

_STOP = (signal.SIGTERM, signal.SIGINT)


class Replica:
    """One replica: the HTTP application over this process's memory-mapped tables."""

    def __init__(self) -> None:
        self._app = build_app(replica=serve.get_replica_context().replica_id.unique_id)
        self._config: ServiceConfig | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:  # Ray Serve's name for it
        return self._app

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take up a configuration, or, where it is the one at work, whatever was published.

        The requests of the time in between are answered as before.
        """
        config = ServiceConfig.parse(user_config)
        state = self._app.state
        old: Lookup | None = state.lookup
        if old and config == self._config:
            await to_thread.run_sync(old.refresh)
            return

        def open_lookup() -> Lookup:
            lookup = Lookup(config.registry, cache=config.cache or default_cache())
            lookup.watch(seconds=config.refresh_seconds)
            return lookup

        state.lookup = await to_thread.run_sync(open_lookup)
        state.max_ids = config.max_ids
        self._config = config
        if old:
            await to_thread.run_sync(old.close)

    def check_health(self) -> None:
        """Raise where this replica would go on answering from what it once knew."""
        lookup: Lookup | None = self._app.state.lookup
        if lookup and not lookup.watching:
            raise RuntimeError("the thread that follows the registry has died")


LookupService: Any = serve.deployment(
    name=DEPLOYMENT,
    max_ongoing_requests=32,
    health_check_period_s=5,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=10,
    graceful_shutdown_wait_loop_s=1,
)(serve.ingress()(Replica))


def application(args: dict[str, Any] | None = None) -> Any:
    """The Serve application; `args` become its user_config, which a config file may give instead.

    `serve run backstay.serving.service:application registry=…`
    """
    config = asdict(ServiceConfig.parse(args)) if args else None
    return LookupService.options(user_config=config).bind()


class Service:
    """A running service, to be stopped: by `stop`, or at the end of a `with`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._stack = ExitStack()

    def owns(self, stack: ExitStack) -> None:
        """Unwind `stack` when the service is stopped."""
        self._stack = stack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the service, and Ray where the service started it. Waits until both are gone."""
        self._stack.close()


def run(
    registry_uri: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int = 1,
    cache: str | Path | None = None,
    refresh_seconds: float = 5.0,
    max_ids: int = MAX_IDS,
    blocking: bool = True,
    on_ready: Callable[[str], None] | None = None,
) -> Service:
    """Serve a registry's look-ups over HTTP on Ray Serve.

    Joins the cluster named by RAY_ADDRESS, or the one that this process is connected to; without
    either it starts one of its own, as small as Ray goes, and takes it down at the end.

    Args:
        registry_uri: The registry's root, a path or URL.
        host: Address to listen on; 0.0.0.0 lets the network in.
        port: Port to listen on; 0 picks a free one.
        replicas: Processes that answer.
        cache: Local folder for copies of the newest tables; see `default_cache`.
        refresh_seconds: How often to look for new versions.
        max_ids: Most ids in one request.
        blocking: Return when SIGTERM or SIGINT came and everything has stopped; else as soon as
            it answers. Only the main thread may block.
        on_ready: Called with the service's URL when it answers.

    Raises:
        UsageError: an option can't be meant.
        ServiceError: the port is taken.
        RegistryError: there is no such registry.
    """
    uri = _absolute(registry_uri)
    config = ServiceConfig(
        registry=uri,
        cache=str(Path(cache).absolute()) if cache else None,
        refresh_seconds=refresh_seconds,
        max_ids=max_ids,
    )
    if replicas < 1:
        raise UsageError(f"replicas must be at least 1; found {replicas}.")
    if not Registry(uri).spaces():  # a registry that can't be read says so here, not in a log
        logger.warning("%s holds no published version yet; the first will be served", uri)
    port = _free(host, port)
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104
    service = Service(url)
    with _until_told_to_stop() if blocking else nullcontext(), ExitStack() as stack:
        with redirect_stdout(sys.stderr):  # Ray prints
            stack.callback(_shut_down, ray_too=not ray.is_initialized())
            if not ray.is_initialized():
                address = os.environ.get("RAY_ADDRESS")
                ray.init(**({"address": address} if address else _small(replicas)))
            if blocking:
                _take_signals()  # back from Ray, whose own handlers exit with the signal's number
            _deploy(config, host=host, port=port, replicas=replicas)
        logger.info("serving %s at %s", uri, url)
        if on_ready:
            on_ready(url)
        if blocking:
            with redirect_stdout(sys.stderr):
                threading.Event().wait()
        service.owns(stack.pop_all())
    return service


def _deploy(config: ServiceConfig, *, host: str, port: int, replicas: int) -> None:
    if serve.status().proxies:
        raise ServiceError(
            "Ray Serve already runs on this cluster, and its address can't be changed from here. "
            "Deploy to it with `serve deploy serve/config.yaml`, or unset RAY_ADDRESS."
        )
    options = {"host": host, "port": port, "request_timeout_s": 30}
    logging_config = {"encoding": "JSON", "enable_access_log": False}
    serve.start(proxy_location="HeadOnly", http_options=options, logging_config=logging_config)
    deployment = LookupService.options(
        num_replicas=replicas, user_config=asdict(config), logging_config=logging_config
    )
    serve.run(deployment.bind(), name=APP, route_prefix="/")


def _shut_down(*, ray_too: bool) -> None:
    with redirect_stdout(sys.stderr):
        if ray.is_initialized():
            serve.shutdown()
        if ray_too:
            ray.shutdown()


def _small(replicas: int) -> dict[str, Any]:
    return {
        "address": "local",
        "num_cpus": replicas,
        "include_dashboard": False,
        "object_store_memory": 100 << 20,  # look-ups pass through none of it
        "log_to_driver": False,
    }


def _absolute(uri: str | Path) -> str:
    # Replicas have a working directory of their own.
    return str(uri) if "://" in str(uri) else str(Path(uri).expanduser().absolute())


def _free(host: str, port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"can't listen on {host}:{port} ({error.strerror}). Name another with --port, "
                "or 0 for any that is free."
            ) from error
        return int(probe.getsockname()[1])


class _StopRequested(BaseException):
    """SIGTERM or SIGINT came."""


@contextmanager
def _until_told_to_stop() -> Iterator[None]:
    """Leave the block, from wherever it is, when SIGTERM or SIGINT comes."""
    before = {number: signal.getsignal(number) for number in _STOP}
    _take_signals()
    try:
        yield
    except _StopRequested:
        logger.info("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take_signals() -> None:
    def stop(*_: object) -> None:
        for number in _STOP:  # one is enough: the clean-up shall not be cut short
            signal.signal(number, signal.SIG_IGN)
        raise _StopRequested

    for number in _STOP:
        signal.signal(number, stop)
