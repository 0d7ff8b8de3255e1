"""The deployment of the look-up service on Ray Serve; `server` runs it."""

from collections.abc import Mapping

from fastapi import FastAPI

from backstay.serving.access_log import AccessLog
from backstay.serving.app import build_app
from backstay.serving.cache import default_cache
from backstay.serving.config import ServiceConfig
from backstay.serving.follower import Follower
from backstay.serving.lookup import Lookup
from backstay.serving.loopback import bind_replica
from backstay.serving.monitor import Overview, Snapshot
from backstay.serving.ray_serve import serve
from backstay.serving.rollout import Orders, Report
from backstay.serving.watch_service import WatchService

APP = "backstay"
DEPLOYMENT = "lookup"

_READY_SECONDS = 60.0  # a replica gets requests after so long, even if a table is still copied

MAX_ONGOING_REQUESTS = 32
"""Most requests that one replica answers at the same time."""

MAX_QUEUED_REQUESTS = 200
"""Most requests that wait for a replica; the next one is answered with 503."""


class Replica:
    """One replica: the HTTP application and the tables that this process maps into memory."""

    def __init__(self, watch: serve.handle.DeploymentHandle) -> None:
        bind_replica()
        self._watch = watch
        self._name = serve.get_replica_context().replica_id.unique_id
        self._app = build_app(auth="required", replica=self._name)
        self._app.state.pickled = True
        self._config: ServiceConfig | None = None
        self._follower: Follower | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:  # called by Ray Serve
        return self._app

    async def reconfigure(self, user_config: Mapping[str, object]) -> None:
        """Apply a configuration.

        Requests that arrive meanwhile are answered with the old configuration. Returns when the
        tables are open, or after a minute: a table that takes longer is answered with 503.
        """
        config = ServiceConfig.parse(user_config)
        if config == self._config:
            return
        cache = config.cache or default_cache()
        log = AccessLog(config.access_log)
        lookup = Lookup(
            config.registry, cache=cache, load=False, views_max_bytes=config.views_max_bytes
        )
        watch = _Watch(self._watch, config)
        monitor = self._app.state.monitor
        follower = Follower(lookup, watch, replica=self._name, snapshot=monitor.snapshot)
        follower.start()
        await follower.ready(seconds=_READY_SECONDS)
        old, self._follower = self._follower, follower
        old_log, self._app.state.log = self._app.state.log, log
        old_log.close()
        self._app.state.lookup = lookup
        self._app.state.max_ids = config.max_ids
        self._app.state.auth = config.auth
        monitor.gather = watch.gather
        self._config = config
        if old:
            old.stop()

    def check_health(self) -> None:
        """Raise if this replica does not follow the registry any more."""
        if self._follower and not self._follower.following:
            raise RuntimeError("the replica has stopped following the registry")


class WatchReplica(WatchService):
    """The process that watches the registry for all replicas."""

    def __init__(self) -> None:
        bind_replica()
        super().__init__()


class _Watch:
    """Calls of the deployment that watches the registry."""

    def __init__(self, handle: serve.handle.DeploymentHandle, config: ServiceConfig) -> None:
        self._handle = handle
        self._of = (config.registry, config.spaces, config.refresh_seconds)

    async def orders(self, known: tuple[str, int]) -> Orders:
        orders: Orders = await self._handle.orders.remote(*self._of, known)
        return orders

    async def report(self, report: Report) -> None:
        await self._handle.report.remote(*self._of, report)

    async def share(self, snapshot: Snapshot) -> None:
        await self._handle.share.remote(*self._of, snapshot)

    async def gather(self, snapshot: Snapshot) -> Overview:
        overview: Overview = await self._handle.gather.remote(*self._of, snapshot)
        return overview


LookupService = serve.deployment(
    name=DEPLOYMENT,
    max_ongoing_requests=MAX_ONGOING_REQUESTS,
    max_queued_requests=MAX_QUEUED_REQUESTS,
    backpressure_config={"status_code": 503, "retry_after_s": 1},
    health_check_period_s=5,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=10,
    graceful_shutdown_wait_loop_s=1,
)(serve.ingress()(Replica))


Watch = serve.deployment(
    name="watch",
    num_replicas=1,
    max_ongoing_requests=1000,  # each replica of `lookup` has a call waiting
    ray_actor_options={"num_cpus": 0},
    health_check_period_s=5,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=1,
    graceful_shutdown_wait_loop_s=1,
)(WatchReplica)


def bound(deployment: serve.Deployment = LookupService) -> serve.Application:
    """The application: replicas of look-ups, and the process that watches the registry for them."""
    return deployment.bind(Watch.bind())


def application(args: dict[str, object] | None = None) -> serve.Application:
    """The Serve application, with `args` as its user_config. A config file can set that instead.

    `serve run backstay.serving.service:application registry=…`
    """
    config = ServiceConfig.parse(args).model_dump() if args else None
    return bound(LookupService.options(user_config=config))
