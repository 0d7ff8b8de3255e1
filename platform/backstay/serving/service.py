"""The deployment of the look-up service on Ray Serve; `server` runs it."""

import warnings
from collections.abc import Mapping

from anyio import to_thread
from fastapi import FastAPI

from backstay.serving.app import build_app
from backstay.serving.cache import default_cache
from backstay.serving.config import ServiceConfig
from backstay.serving.lookup import Lookup

with warnings.catch_warnings():
    # Ray Serve uses a deprecated form of pydantic's Field.
    warnings.filterwarnings(
        "ignore", "Using extra keyword arguments on `Field`", category=DeprecationWarning
    )
    from ray import serve

__all__ = ["APP", "DEPLOYMENT", "LookupService", "Replica", "application", "serve"]

APP = "backstay"
DEPLOYMENT = "lookup"


class Replica:
    """One replica: the HTTP application and the tables that this process maps into memory."""

    def __init__(self) -> None:
        self._app = build_app(replica=serve.get_replica_context().replica_id.unique_id)
        self._config: ServiceConfig | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:  # called by Ray Serve
        return self._app

    async def reconfigure(self, user_config: Mapping[str, object]) -> None:
        """Apply a configuration. If it has not changed, load what was published since.

        Requests that arrive meanwhile are answered with the old configuration.
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
        """Raise if the thread that watches the registry died: answers would become stale."""
        lookup: Lookup | None = self._app.state.lookup
        if lookup and not lookup.watching:
            raise RuntimeError("the thread that watches the registry has died")


LookupService = serve.deployment(
    name=DEPLOYMENT,
    max_ongoing_requests=32,
    health_check_period_s=5,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=10,
    graceful_shutdown_wait_loop_s=1,
)(serve.ingress()(Replica))


def application(args: dict[str, object] | None = None) -> object:
    """The Serve application, with `args` as its user_config. A config file can set that instead.

    `serve run backstay.serving.service:application registry=…`
    """
    config = ServiceConfig.parse(args).model_dump() if args else None
    return LookupService.options(user_config=config).bind()
