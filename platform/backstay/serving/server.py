"""Runs the look-up service on Ray Serve until it is stopped, on a private Ray by default.

The default is Ray Serve's own proxy. RAY_SERVE_ENABLE_HA_PROXY=1, set before Ray starts, replaces
it with HAProxy, which answers about three times as many small requests a second. But HAProxy opens
its statistics and each replica's port on all interfaces, and takes half a minute to stop. Ray's
internal ports listen on all interfaces in both cases.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import ray

from backstay.cluster.output import log_folder, log_prints, quiet_ray
from backstay.errors import ServiceError, UsageError
from backstay.registry.store import Registry
from backstay.serving.access_log import OFF, STDOUT, AccessLog
from backstay.serving.config import MAX_IDS, ServiceConfig
from backstay.serving.service import APP, LookupService, bound, serve

logger = logging.getLogger("backstay.serving")

_STOP = (signal.SIGTERM, signal.SIGINT)


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
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int = 1,
    cache: str | Path | None = None,
    refresh_seconds: float = 5.0,
    max_ids: int = MAX_IDS,
    access_log: str | Path = OFF,
    blocking: bool = True,
    on_ready: Callable[[str], None] | None = None,
) -> Service:
    """Serve a registry's look-ups over HTTP on Ray Serve.

    Uses the cluster that this process is connected to, else the one in RAY_ADDRESS. Otherwise it
    starts a private Ray, as small as possible, and stops it at the end.

    Args:
        registry_uri: The registry's root, a path or URL.
        host: Address to listen on; 0.0.0.0: all interfaces.
        port: Port to listen on; 0: any free one.
        replicas: Processes that answer requests.
        cache: Local folder for copies of the newest tables; see `default_cache`.
        refresh_seconds: Seconds between two checks for new versions.
        max_ids: Most ids in one request.
        access_log: File for a line of JSON per request; `-`: standard output; `off`: none.
        blocking: Return after SIGTERM or SIGINT, when everything has stopped; otherwise return
            as soon as the service is ready. Only the main thread may block.
        on_ready: Called with the service's URL when it is ready.

    Raises ServiceError if the port is taken or Ray Serve already runs on the cluster.
    """
    uri = _absolute(registry_uri)
    config = ServiceConfig.parse(
        {
            "registry": uri,
            "cache": str(Path(cache).absolute()) if cache else None,
            "refresh_seconds": refresh_seconds,
            "max_ids": max_ids,
            "access_log": _log_target(str(access_log)),
        }
    )
    if replicas < 1:
        raise UsageError(f"replicas must be at least 1; found {replicas}.")
    if not Registry(uri).spaces():  # raises here, not in a replica, if it cannot be read
        logger.warning("%s holds no published version yet; the service waits for one", uri)
    port = _free(host, port)
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104
    with _until_stopped() if blocking else nullcontext(), ExitStack() as stack:
        stack.enter_context(quiet_ray())
        with log_prints():
            stack.callback(_shut_down, ray_too=not ray.is_initialized())
            if not ray.is_initialized():
                address = os.environ.get("RAY_ADDRESS")
                ray.init(**({"address": address} if address else _small(replicas)))
                log_folder()
            if blocking:
                _take_signals()  # Ray replaced the handlers with its own
            _deploy(config, host=host, port=port, replicas=replicas)
        logger.info("serving %s at %s", uri, url)
        if on_ready:
            on_ready(url)
        if blocking:
            with log_prints():
                threading.Event().wait()
        return Service(url, stack.pop_all())


def _deploy(config: ServiceConfig, *, host: str, port: int, replicas: int) -> None:
    if serve.status().proxies:
        raise ServiceError(
            "expected a cluster without Ray Serve, found Serve running on it. Deploy with "
            "`serve deploy serve/config.yaml`, or unset RAY_ADDRESS."
        )
    options = {"host": host, "port": port, "request_timeout_s": 30}
    logging_config = {"encoding": "JSON", "enable_access_log": False}
    serve.start(proxy_location="HeadOnly", http_options=options, logging_config=logging_config)
    deployment = LookupService.options(
        num_replicas=replicas, user_config=config.model_dump(), logging_config=logging_config
    )
    serve.run(bound(deployment), name=APP, route_prefix="/")


def _shut_down(*, ray_too: bool) -> None:
    with log_prints():
        if ray.is_initialized():
            serve.shutdown()
        if ray_too:
            ray.shutdown()


def _small(replicas: int) -> dict[str, str | int | bool]:
    """Arguments of ray.init for a private Ray."""
    return {
        "address": "local",
        "num_cpus": replicas,
        "include_dashboard": False,
        "object_store_memory": 100 << 20,  # look-ups do not use it
        "log_to_driver": False,
    }


def _absolute(uri: str | Path) -> str:
    # Replicas have another working directory.
    return str(uri) if "://" in str(uri) else str(Path(uri).expanduser().absolute())


def _log_target(access_log: str) -> str:
    """What replicas, which have another folder and standard output, take for the access log."""
    if access_log == OFF:
        return OFF
    if access_log == STDOUT and not sys.platform.startswith("linux"):
        raise UsageError("--access-log - needs Linux; found another system. Name a file.")
    path = f"/proc/{os.getpid()}/fd/1" if access_log == STDOUT else access_log
    target = Path(path).expanduser().absolute()
    AccessLog(str(target)).close()  # raises here, not in a replica, if it can't be written
    return str(target)


def _free(host: str, port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"cannot listen on {host}:{port} ({error.strerror}). Choose another --port; "
                "--port 0 takes any free one."
            ) from error
        return int(probe.getsockname()[1])


class _StopRequested(BaseException):
    """SIGTERM or SIGINT arrived."""


@contextmanager
def _until_stopped() -> Iterator[None]:
    """Leave the block when SIGTERM or SIGINT arrives."""
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
        for number in _STOP:  # a second signal must not interrupt the clean-up
            signal.signal(number, signal.SIG_IGN)
        raise _StopRequested

    for number in _STOP:
        signal.signal(number, stop)
