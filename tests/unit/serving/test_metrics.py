"""What /metrics shows: of one app, and of all replicas whichever is scraped."""

import asyncio
import math
from contextlib import contextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backstay.serving import exposition
from backstay.serving.app import build_app
from backstay.serving.follower import Follower
from backstay.serving.lookup import Lookup
from backstay.serving.metrics import BUCKETS, Labels, Metrics, Outcome, quantile
from backstay.serving.monitor import Snapshots
from backstay.serving.watch_service import WatchService
from tests.support import served
from tests.support.served import SPACE, listening

ROUTE = "/v1/spaces/{space}/{entity}/"
ONE, MANY = ROUTE + "{id:anything}", ROUTE + "lookup"


def parse(text):
    """Of every series: its value, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@contextmanager
def serving(app):
    """A client of an app."""
    with listening(app) as url, httpx.Client(base_url=url) as client:
        yield client


def scraped(app):
    """The series of an app."""
    with serving(app) as client:
        return parse(client.get("/metrics").text)


def value(series, name, **labels):
    return series[name, frozenset(labels.items())]


def requests(series, **labels):
    """The number of requests in all series with these labels."""
    return sum(
        count
        for (name, of), count in series.items()
        if name == "backstay_request_seconds_count" and labels.items() <= of
    )


def test_requests_are_counted_by_route_and_ids_by_outcome(lookup):
    with listening(build_app(lookup, replica="one")) as url:
        many = httpx.post(f"{url}/v1/spaces/{SPACE}/user/lookup", json={"ids": [5, 41, 0]})
        httpx.post(f"{url}/v1/spaces/{SPACE}/user/lookup", json={"ids": [5] * 99, "version": 0})
        httpx.get(f"{url}/v1/spaces/{SPACE}/user/5", headers={"Accept": "application/octet-stream"})
        httpx.get(f"{url}/v1/spaces/{SPACE}/user/41")
        httpx.get(f"{url}/nowhere")
        httpx.request("PROPFIND", f"{url}/nowhere")
        series = parse(httpx.get(f"{url}/metrics").text)
    of = {"method": "POST", "route": MANY, "status": "200", "space": SPACE}
    assert requests(series, **of, version="2", format="json") == 1
    assert requests(series, **of, version="0") == 1  # answered in another thread
    assert requests(series, method="GET", route=ONE, status="200", format="binary") == 1
    assert requests(series, method="GET", route=ONE, status="404", space=SPACE) == 1
    assert requests(series, method="GET", route="unmatched", status="404") == 1
    assert requests(series, method="other", route="unmatched", status="404") == 1
    ids = {"replica": "one", "space": SPACE, "entity": "user"}
    assert value(series, "backstay_ids_total", **ids, version="2", found="true") == 3
    assert value(series, "backstay_ids_total", **ids, version="2", found="false") == 2
    assert value(series, "backstay_ids_total", **ids, version="0", found="true") == 99
    of |= {"replica": "one", "version": "2", "format": "json"}
    assert value(series, "backstay_answer_bytes_total", **of) == len(many.content)
    assert value(series, "backstay_request_seconds_bucket", **of, le="+Inf") == 1


def test_names_that_a_client_makes_up_become_no_label(lookup):
    with serving(build_app(lookup, replica="one")) as client:
        for n in range(50):
            client.get(f"/v1/spaces/space-{n}/user/5")
            client.get(f"/v1/spaces/{SPACE}/entity-{n}/5")
            client.get(f"/v1/spaces/{SPACE}/user/5?version={10 + n}")
            client.get(f"/v1/spaces/{SPACE}/user/5?version=alias-{n}")
            client.get(f"/v1/spaces/{SPACE}/user/5", headers={"Backstay-Consumer": f"consumer-{n}"})
            client.get(f"/path-{n}")
        series = parse(client.get("/metrics").text)
    labels = {label for _, of in series for label in of}
    assert {name for key, name in labels if key == "space"} == {"", SPACE}
    assert {name for key, name in labels if key == "version"} <= {"", "2"}
    assert not [name for _, name in labels if name[-2:].isdecimal() and "-" in name]
    assert requests(series, space="", status="404") == 100


def test_the_number_of_series_has_a_limit():
    metrics = Metrics()
    for n in range(3000):
        outcome = Outcome(f"space-{n}", "user", 0, 0, 2, 1, "json")
        labels = Labels("GET", ONE, 200, outcome.space, "0", "json")
        metrics.answered(labels, seconds=0.1, size=10, outcome=outcome)
    counted = metrics.counted()
    assert len(counted.requests) == len(counted.ids) == 2001
    other = counted.requests[Labels("GET", ONE, 200, "other")]
    assert sum(other.counts) == other.bytes / 10 == 1000
    assert counted.ids["other", "", ""].unknown == 1000


def test_spaces_and_their_versions(registry, tmp_path):
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        series = scraped(build_app(lookup, replica="one"))
    of = {"replica": "one", "space": SPACE}
    for entity in ("user", "item"):
        assert value(series, "backstay_source_version", **of, entity=entity) == 2
        assert value(series, "backstay_source_created_seconds", **of, entity=entity) > 1e9
    assert value(series, "backstay_in_force_version", **of) == 2
    assert value(series, "backstay_ready", **of) == 1
    assert value(series, "backstay_refresh_failing", **of) == 0
    assert value(series, "backstay_views", replica="one") == 0  # no contract asks for one
    (cache,) = [v for (name, _), v in series.items() if name == "backstay_cache_bytes"]
    assert cache == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert value(series, "backstay_registry_failures_total") == 0
    assert value(series, "backstay_registry_read_seconds") > 1e9
    assert value(series, "backstay_scrape_complete") == 1


def test_a_registry_that_can_not_be_read_is_counted(tmp_path):
    registry = served.build(tmp_path / "registry", versions=1)
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        read = lookup.reads.last
        (tmp_path / "registry").rename(tmp_path / "gone")
        with pytest.raises(Exception):  # noqa: B017, PT011 - of any kind
            lookup.refresh()
        assert (lookup.reads.failures, lookup.reads.last) == (1, read)


def test_an_app_without_a_registry_has_metrics():
    series = scraped(build_app(replica="one"))
    assert value(series, "backstay_lookups_in_flight", replica="one") == 0


class Calls:
    """The calls of a replica, without a network."""

    def __init__(self, registry, service):
        self._of = (registry.uri, None, 0.05)
        self._service = service

    async def orders(self, known):
        return await self._service.orders(*self._of, known)

    async def report(self, report):
        await self._service.report(*self._of, report)

    async def share(self, snapshot):
        await self._service.share(*self._of, snapshot)

    async def gather(self, snapshot):
        return await self._service.gather(*self._of, snapshot)


def replicas(registry, tmp_path, service, names):
    """Apps that follow one service; they start in the running event loop."""
    apps = {}
    for name in names:
        lookup = Lookup(registry, cache=tmp_path / "cache", load=False)
        app = build_app(lookup, replica=name)
        calls = Calls(registry, service)
        follower = Follower(lookup, calls, replica=name, snapshot=app.state.monitor.snapshot)
        follower.start()
        app.state.monitor.gather = calls.gather
        apps[name] = app, follower
    return apps


def test_any_replica_shows_all_and_no_counter_falls(tmp_path):
    registry = served.build(tmp_path / "registry", versions=2)

    async def scenario():
        apps = replicas(registry, tmp_path, WatchService(), ["a", "b"])
        clients = {}
        for name, (app, follower) in apps.items():
            await follower.ready(seconds=30)
            transport = httpx.ASGITransport(app)
            clients[name] = httpx.AsyncClient(transport=transport, base_url="http://test")

        async def scrape(name):
            return parse((await clients[name].get("/metrics")).text)

        for _ in range(3):
            await clients["a"].get(f"/v1/spaces/{SPACE}/user/5")
        await scrape("a")
        await clients["b"].get(f"/v1/spaces/{SPACE}/user/5")
        from_b, from_a = await scrape("b"), await scrape("a")
        for series in (from_b, from_a):
            assert requests(series, replica="a", route=ONE) == 3
            assert requests(series, replica="b", route=ONE) == 1
            assert value(series, "backstay_scrape_complete") == 1
        for key, before in from_b.items():
            if key[0].endswith(("_total", "_count", "_bucket", "_sum")):
                assert from_a[key] >= before
        generations = {v for (name, _), v in from_a.items() if name == "backstay_generation"}
        assert len(generations) == 1
        for _, follower in apps.values():
            follower.stop()
        for client in clients.values():
            await client.aclose()

    asyncio.run(scenario())


def test_without_the_watching_process_a_replica_shows_itself(lookup):
    async def dead(_snapshot):
        raise ConnectionError("the actor is dead")

    app = build_app(lookup, replica="one")
    app.state.monitor.gather = dead
    series = scraped(app)
    assert value(series, "backstay_scrape_complete") == 0
    assert value(series, "backstay_ready", replica="one", space=SPACE) == 1


def test_a_snapshot_that_was_overtaken_is_not_taken(lookup):
    monitor = build_app(lookup, replica="one").state.monitor

    async def two():
        return await monitor.snapshot(), await monitor.snapshot()

    first, second = asyncio.run(two())
    now = 0.0
    snapshots = Snapshots(clock=lambda: now)
    snapshots.put(second)
    snapshots.put(first)
    assert snapshots.alive() == (second,)
    now = 20.0
    assert snapshots.alive() == ()


def test_quantiles_are_interpolated_within_buckets():
    counts = [0] * (len(BUCKETS) + 1)
    assert quantile(tuple(counts), 0.5) is None
    counts[2] = 100  # from 0.5 ms to 1 ms
    assert math.isclose(quantile(tuple(counts), 0.5), 0.00075)
    counts[-1] = 900  # above the last bound
    assert quantile(tuple(counts), 0.99) == BUCKETS[-1]


def test_every_family_has_its_help_and_no_series_twice(lookup):
    overview = asyncio.run(build_app(lookup, replica="one").state.monitor.overview())
    text = exposition.render(overview).decode()
    lines = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))
    assert all(family.documentation for family in text_string_to_metric_families(text))
