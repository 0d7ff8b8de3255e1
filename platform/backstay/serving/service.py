"""The deployments of the look-up service on Ray Serve; `server` runs them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from fastapi import FastAPI

from backstay.errors import UsageError
from backstay.serving.access_log import AccessLog
from backstay.serving.app import build_app
from backstay.serving.cache import default_cache
from backstay.serving.config import ServiceConfig
from backstay.serving.copies import Key
from backstay.serving.follower import Follower
from backstay.serving.ids import IdArray
from backstay.serving.lookup import Lookup
from backstay.serving.loopback import bind_replica
from backstay.serving.monitor import Overview, Snapshot
from backstay.serving.ray_serve import serve
from backstay.serving.rollout import Orders, Report
from backstay.serving.router import Router
from backstay.serving.shard_tables import Refused, Shape, ShardTables
from backstay.serving.sharding import Rows, Shard
from backstay.serving.watch_service import WatchService

APP = "backstay"
DEPLOYMENT = "lookup"

_READY_SECONDS = 60.0  # a replica gets requests after so long, even if a table is still copied
_CALL_SECONDS = 5.0  # of a call to a shard that only looks something up
_INLINE = 1024  # ids up to which a shard gathers rows in its event loop, not in a thread

MAX_ONGOING_REQUESTS = 32
"""Most requests that one replica answers at the same time."""

MAX_QUEUED_REQUESTS = 200
"""Most requests that wait for a replica; the next one is answered with 503."""


class _Following:
    """Keeps a replica in step with the process that watches the registry."""

    def __init__(self, watch: serve.handle.DeploymentHandle) -> None:
        bind_replica()
        self.name = serve.get_replica_context().replica_id.unique_id
        self.config: ServiceConfig | None = None
        self._watch = watch
        self._follower: Follower | None = None

    async def follow(
        self,
        lookup: Lookup,
        config: ServiceConfig,
        snapshot: Callable[[], Awaitable[Snapshot]] | None = None,
    ) -> "_Watch":
        """Follow with a new look-up in place of the one before; returns when it is ready.

        That is when its tables are open, or after a minute.
        """
        watch = _Watch(self._watch, config)
        follower = Follower(lookup, watch, replica=self.name, snapshot=snapshot)
        follower.start()
        await follower.ready(seconds=_READY_SECONDS)
        old, self._follower = self._follower, follower
        self.config = config
        if old:
            old.stop()
        return watch

    def check_health(self) -> None:
        """Raise if this replica does not follow the registry any more."""
        if self._follower and not self._follower.following:
            raise RuntimeError("the replica has stopped following the registry")


class Replica:
    """One replica: the HTTP application, and the tables that this process maps into memory.

    With `shards`, the shards have the tables, and this process asks them.
    """

    def __init__(
        self,
        watch: serve.handle.DeploymentHandle,
        shards: Sequence[serve.handle.DeploymentHandle] = (),
    ) -> None:
        self._following = _Following(watch)
        self._shards = [_Shard(handle) for handle in shards]
        self._app = build_app(auth="required", replica=self._following.name)
        self._app.state.pickled = True

    def __serve_build_asgi_app__(self) -> FastAPI:  # called by Ray Serve
        return self._app

    async def reconfigure(self, user_config: Mapping[str, object]) -> None:
        """Apply a configuration.

        Requests that arrive meanwhile are answered with the old configuration. Returns when the
        tables are open, or after a minute: a table that takes longer is answered with 503.
        """
        config = ServiceConfig.parse(user_config)
        if config == self._following.config:
            return
        log = AccessLog(config.access_log)
        lookup = self._lookup(config)
        monitor = self._app.state.monitor
        watch = await self._following.follow(lookup, config, monitor.snapshot)
        old_log, self._app.state.log = self._app.state.log, log
        old_log.close()
        self._app.state.lookup = lookup
        self._app.state.max_ids = config.max_ids
        self._app.state.auth = config.auth
        monitor.gather = watch.gather

    def check_health(self) -> None:
        """Raise if this replica does not follow the registry any more."""
        self._following.check_health()

    def _lookup(self, config: ServiceConfig) -> Lookup:
        cache = config.cache or default_cache()
        if config.shards != max(len(self._shards), 1):
            raise UsageError(
                f"shards must be the number of shards that the service was started with, "
                f"{max(len(self._shards), 1)}; found {config.shards}. Set it in the `args` of the "
                "application, which starts the service anew."
            )
        if self._shards:
            return Router(config.registry, cache=cache, shards=self._shards, load=False)
        return Lookup(
            config.registry, cache=cache, load=False, views_max_bytes=config.views_max_bytes
        )


class ShardReplica:
    """A process with the rows of one shard."""

    def __init__(self, watch: serve.handle.DeploymentHandle, shard: Shard) -> None:
        self._following = _Following(watch)
        self._shard = shard
        self._tables: ShardTables | None = None

    async def reconfigure(self, user_config: Mapping[str, object]) -> None:
        """Apply a configuration; see `Replica.reconfigure`."""
        config = ServiceConfig.parse(user_config)
        if config == self._following.config:
            return
        cache = config.cache or default_cache()
        lookup = Lookup(config.registry, cache=cache, load=False, shard=self._shard)
        # Before its tables are open: routers wait for that, and it for them.
        self._tables = ShardTables(lookup)
        await self._following.follow(lookup, config)

    async def opened(self, key: Key) -> Shape | Refused:
        """See `ShardTables.opened`."""
        return self._answering().opened(key)

    async def rows(self, key: Key, ids: IdArray) -> Rows | Refused:
        """See `ShardTables.rows`."""
        tables = self._answering()
        if len(ids) <= _INLINE:
            return tables.rows(key, ids)
        return await asyncio.to_thread(tables.rows, key, ids)

    def check_health(self) -> None:
        """Raise if this replica does not follow the registry any more."""
        self._following.check_health()

    def _answering(self) -> ShardTables:
        if self._tables is None:
            raise RuntimeError(f"{self._shard} has no user_config")
        return self._tables


class _Shard:
    """Calls of the deployment that holds one shard."""

    def __init__(self, handle: serve.handle.DeploymentHandle) -> None:
        self._handle = handle

    def opened(self, key: Key) -> Shape | Refused:
        opened: Shape | Refused = self._handle.opened.remote(key).result(timeout_s=_CALL_SECONDS)
        return opened

    async def rows(self, key: Key, ids: IdArray) -> Rows | Refused:
        rows: Rows | Refused = await self._handle.rows.remote(key, ids)
        return rows


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
    graceful_shutdown_wait_loop_s=0.2,
)(serve.ingress()(Replica))


ShardDeployment = serve.deployment(
    max_ongoing_requests=100,
    health_check_period_s=5,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=10,
    graceful_shutdown_wait_loop_s=0.2,
)(ShardReplica)


Watch = serve.deployment(
    name="watch",
    num_replicas=1,
    max_ongoing_requests=1000,  # each replica of `lookup` and of shards has a call waiting
    ray_actor_options={"num_cpus": 0},
    health_check_period_s=5,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=1,
    graceful_shutdown_wait_loop_s=0.2,
)(WatchReplica)


def bound(
    config: ServiceConfig | None, deployment: serve.Deployment = LookupService
) -> serve.Application:
    """The application: replicas that answer, the process that watches, and the shards if any.

    Shard N is the deployment `shard-N`.
    """
    watch = Watch.bind()
    if config is None:
        return deployment.bind(watch)
    user_config = config.model_dump()
    deployment = deployment.options(user_config=user_config)
    if config.shards == 1:
        return deployment.bind(watch)
    shards = [
        ShardDeployment.options(name=f"shard-{n}", user_config=user_config).bind(
            watch, Shard(n, config.shards)
        )
        for n in range(config.shards)
    ]
    return deployment.bind(watch, shards)


def application(args: dict[str, object] | None = None) -> serve.Application:
    """The Serve application, with `args` as the user_config of its deployments.

    A config file can set the user_config of `lookup` instead, for a service without shards.

    `serve run backstay.serving.service:application registry=…`
    """
    return bound(ServiceConfig.parse(args) if args else None)
