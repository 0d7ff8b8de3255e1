"""The metrics of a service in Prometheus's text format.

Each series of a replica has the label `replica`, so that the counters of one that has ended do not
make a sum fall.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from backstay.serving.metrics import BUCKETS, Labels
from backstay.serving.monitor import Overview, Snapshot, SpaceSnapshot

_REQUEST = ["replica", *Labels._fields]


def render(overview: Overview) -> bytes:
    """All metrics as text."""
    return generate_latest(_Collector(overview))


@dataclass(frozen=True)
class _Collector:
    overview: Overview

    def collect(self) -> Iterable[Metric]:
        replicas = self.overview.replicas
        yield from _requests(replicas)
        yield from _processes(replicas)
        yield from _spaces(replicas)
        yield from _service(self.overview)


def _requests(replicas: Iterable[Snapshot]) -> Iterator[Metric]:
    seconds = HistogramMetricFamily(
        "backstay_request_seconds",
        "Time to answer a request, by the route's template. Space, version and format: of vectors.",
        labels=_REQUEST,
    )
    size = CounterMetricFamily(
        "backstay_answer_bytes", "Bytes in the bodies of answers.", labels=_REQUEST
    )
    ids = CounterMetricFamily(
        "backstay_ids",
        "Requested ids, by whether the table holds them.",
        labels=["replica", "space", "entity", "version", "found"],
    )
    bounds = [*map(str, BUCKETS), "+Inf"]
    for each in replicas:
        for labels, series in each.counted.requests.items():
            values = [each.replica, *map(str, labels)]
            buckets = list(zip(bounds, map(float, accumulate(series.counts)), strict=True))
            seconds.add_metric(values, buckets, sum_value=series.seconds)
            size.add_metric(values, series.bytes)
        for entity, counted in each.counted.ids.items():
            ids.add_metric([each.replica, *entity, "true"], counted.found)
            ids.add_metric([each.replica, *entity, "false"], counted.unknown)
    yield from (seconds, size, ids)


def _processes(replicas: Iterable[Snapshot]) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        "backstay_build_info", "1 for each replica.", labels=["replica", "host", "release"]
    )
    flying = GaugeMetricFamily(
        "backstay_lookups_in_flight", "Look-ups of many ids that are being answered.",
        labels=["replica"],
    )  # fmt: skip
    failures = CounterMetricFamily(
        "backstay_load_failures", "Failed attempts to load a table or a map.", labels=["replica"]
    )
    views = GaugeMetricFamily(
        "backstay_views", "Tables that are converted ahead to an older version, and open.",
        labels=["replica"],
    )  # fmt: skip
    dropped = CounterMetricFamily(
        "backstay_access_log_dropped", "Lines that are missing in the access log.",
        labels=["replica"],
    )  # fmt: skip
    cache = GaugeMetricFamily(
        "backstay_cache_bytes", "Bytes in the cache, which the replicas of a host share.",
        labels=["replica", "host"],
    )  # fmt: skip
    free = GaugeMetricFamily(
        "backstay_cache_free_bytes", "Bytes free on the disk of the cache.",
        labels=["replica", "host"],
    )  # fmt: skip
    lost = GaugeMetricFamily(
        "backstay_lost_shards", "Shards that do not answer this replica.", labels=["replica"]
    )
    for each in replicas:
        build.add_metric([each.replica, each.host, each.release], 1)
        flying.add_metric([each.replica], each.in_flight)
        failures.add_metric([each.replica], each.load_failures)
        views.add_metric([each.replica], each.views)
        dropped.add_metric([each.replica], each.log_lines_dropped)
        cache.add_metric([each.replica, each.host], each.cache_bytes)
        free.add_metric([each.replica, each.host], each.cache_free_bytes)
        lost.add_metric([each.replica], each.lost_shards)
    yield from (build, flying, failures, views, dropped, cache, free, lost)


def _spaces(replicas: Iterable[Snapshot]) -> Iterator[Metric]:
    def gauge(name: str, help_: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(
            f"backstay_{name}", help_, labels=["replica", "space", *labels]
        )  # fmt: skip

    ready = gauge("ready", "1 if the space can answer for its version in force, else 0.")
    failing = gauge("refresh_failing", "1 if the space can't be refreshed, else 0.")
    generation = gauge("generation", "State of the space that answers; equal in all replicas.")
    in_force = gauge("in_force_version", "Version in force.")
    latest = gauge("latest_version", "Newest published version.")
    since = gauge("in_force_since_seconds", "When the state came into force, since 1970.")
    source = gauge("source_version", "Version of the table that answers by default.", "entity")
    created = gauge(
        "source_created_seconds", "When that table's version was published, since 1970.", "entity"
    )

    def add(replica: str, space: SpaceSnapshot) -> None:
        of = [replica, space.name]
        ready.add_metric(of, space.not_ready is None)
        failing.add_metric(of, space.failing is not None)
        if space.in_force is None or space.latest is None:
            return
        generation.add_metric(of, space.generation)
        in_force.add_metric(of, space.in_force)
        latest.add_metric(of, space.latest)
        since.add_metric(of, space.since)
        for entity, version in space.sources.items():
            source.add_metric([*of, entity], version)
            created.add_metric([*of, entity], space.created[entity])

    for each in replicas:
        for space in each.spaces:
            add(each.replica, space)
    yield from (ready, failing, generation, in_force, latest, since, source, created)


def _service(overview: Overview) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "backstay_scrape_complete",
        "1 if the scrape shows all replicas, 0 if it shows only the one that answers.",
        value=overview.complete,
    )
    if overview.reads is not None:
        yield GaugeMetricFamily(
            "backstay_registry_read_seconds",
            "When the registry could be read last, since 1970; 0: never.",
            value=overview.reads.last,
        )
        yield CounterMetricFamily(
            "backstay_registry_failures",
            "Failed attempts to read the registry.",
            value=overview.reads.failures,
        )
