"""The service's metrics for Prometheus."""

import os
from time import perf_counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from backstay.serving.lookup import Found

_METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one app.

    Each series has the label `replica`. A scrape through a load balancer reaches any one replica;
    without the label, the counters of two replicas would look like one that jumps back and forth.
    """

    def __init__(self, *, replica: str | None = None) -> None:
        self.registry = CollectorRegistry()
        self._replica = replica or str(os.getpid())
        self._seconds = Histogram(
            "backstay_request_seconds",
            "Time to answer a request, by the route's template.",
            ["replica", "method", "route", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._ids = Counter(
            "backstay_ids",
            "Requested ids, by whether the table holds them.",
            ["replica", "space", "entity", "found"],
            registry=self.registry,
        )
        self._source = Gauge(
            "backstay_source_version",
            "Version of the table that look-ups are answered from.",
            ["replica", "space", "entity"],
            registry=self.registry,
        )

    def answered(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._seconds.labels(self._replica, method, route, status).observe(seconds)

    def looked_up(self, found: "Found") -> None:
        """Count the ids of a look-up."""
        where = (self._replica, found.space, found.entity)
        self._ids.labels(*where, "true").inc(len(found.values))
        self._ids.labels(*where, "false").inc(len(found.ids) - len(found.values))
        self._source.labels(*where).set(found.source_version)


class Timed:
    """ASGI middleware that times each request into `metrics`."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # the client's status if the app raises before it answers
        start = perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # The template, not the path: otherwise each id would have its own series.
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.answered(
                # Clients can send any method name.
                method=scope["method"] if scope["method"] in _METHODS else "other",
                route=route,
                status=status,
                seconds=perf_counter() - start,
            )
