"""The service's metrics for Prometheus."""

import os
from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from backstay.serving.lookup import Found

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
        # Finding a series by its labels takes longer than counting.
        self._request = cache(self._request_series)
        self._entity = cache(self._entity_series)

    def answered(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._request(method, route, status).observe(seconds)

    def looked_up(self, found: "Found") -> None:
        """Count the ids of a look-up."""
        held, unknown, source = self._entity(found.space, found.entity)
        held.inc(len(found.values))
        unknown.inc(len(found.ids) - len(found.values))
        source.set(found.source_version)

    def _request_series(self, method: str, route: str, status: int) -> Histogram:
        return self._seconds.labels(self._replica, method, route, status)

    def _entity_series(self, space: str, entity: str) -> tuple[Counter, Counter, Gauge]:
        where = (self._replica, space, entity)
        return (
            self._ids.labels(*where, "true"),
            self._ids.labels(*where, "false"),
            self._source.labels(*where),
        )
