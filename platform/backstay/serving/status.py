"""The status page at /: spaces, versions and readers, and the health of all replicas.

It is rendered here, loads nothing else, and runs no script.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from typing import NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from backstay.serving.access import visible
from backstay.serving.lookup import Lookup
from backstay.serving.metrics import quantile
from backstay.serving.monitor import Monitor, Overview, Snapshot
from backstay.serving.state import SpaceState

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
_MOST_CONSUMERS = 20  # listed for one version
_SERVER_ERROR = 500


class VersionRow(NamedTuple):
    """One version of a space."""

    version: int
    dim: int
    method: str
    published: str
    aliases: list[str]  # `latest` included
    in_force: bool
    retired: bool
    answers: list[tuple[str, str]]  # entity, and the table that answers for it
    readers: list[str]  # consumers whose contract pins it
    more_readers: int


class LatencyRow(NamedTuple):
    """The look-ups of one version in all replicas."""

    space: str
    version: str
    requests: int
    failed: int  # with a status from 500
    p50: str
    p99: str


class ReplicaRow(NamedTuple):
    """One replica."""

    name: str
    host: str
    requests: int
    in_flight: int
    spaces: int
    ready: int  # of the spaces
    behind: list[str]  # spaces whose state is older than that of another replica


def install(app: FastAPI) -> None:
    """Add the page."""
    app.add_api_route("/", _page, include_in_schema=False)


async def _page(request: Request) -> HTMLResponse:
    monitor: Monitor = request.app.state.monitor
    lookup: Lookup = request.app.state.vectors.opened()
    page = render(lookup, await monitor.overview(), visible(request.scope, lookup.spaces()))
    return HTMLResponse(
        page, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    )


def render(lookup: Lookup, overview: Overview, shown: Iterable[str]) -> str:
    """The page as HTML, with the spaces `shown`."""
    spaces = set(shown)
    reasons = {name: why for name, why in lookup.ready().items() if name in spaces}
    failing = {name: why for name, why in lookup.failures.items() if name in spaces}
    slots = lookup.shelf.slots()
    states = {
        name: slot.current.state for name, slot in slots.items() if name in spaces and slot.current
    }
    hosts = {each.host: each for each in overview.replicas}
    return _template().render(
        state="not ready" if reasons else "degraded" if failing else "ready",
        problems=sorted((failing | reasons).items()),
        not_ready=set(reasons),
        replicas=[_replica(each, overview, spaces) for each in overview.replicas],
        complete=overview.complete,
        read=_ago(overview.reads.last if overview.reads else 0.0),
        release=overview.replicas[0].release,
        total=_total(overview, spaces),
        latency=_latency(overview, spaces),
        spaces=[(state, _versions(state), _entities(state)) for _, state in sorted(states.items())],
        hosts=[
            (host, _bytes(each.cache_bytes), _bytes(each.cache_free_bytes))
            for host, each in sorted(hosts.items())
        ],
        now=_moment(datetime.now(UTC)),
    )


def _versions(state: SpaceState) -> list[VersionRow]:
    """Newest first."""
    readers = defaultdict(list)
    for consumer, version in sorted(state.pins.items()):
        readers[version].append(consumer)
    rows = []
    for k, each in sorted(state.versions.items(), reverse=True):
        answers = []
        for entity in state.entities():
            sources = state.sources(entity, k)
            answers.append((entity, f"version {sources[0]}" if sources else "none"))
        aliases = sorted(name for name, version in state.aliases.items() if version == k)
        rows.append(
            VersionRow(
                version=k,
                dim=each.dim,
                method=each.method,
                published=_moment(datetime.fromisoformat(each.created)),
                aliases=[*aliases, *(["latest"] if k == state.latest else [])],
                in_force=k == state.in_force,
                retired=each.retired,
                answers=answers,
                readers=readers[k][:_MOST_CONSUMERS],
                more_readers=max(len(readers[k]) - _MOST_CONSUMERS, 0),
            )
        )
    return rows


def _entities(state: SpaceState) -> list[tuple[str, str]]:
    """Entities, and the rows of the table that answers by default."""
    return [
        (entity, f"{state.versions[k].entities[entity].rows:,}")
        for entity, k in state.tables().items()
    ]


def _latency(overview: Overview, spaces: set[str]) -> list[LatencyRow]:
    """The look-ups of each version."""
    found: dict[tuple[str, str], list[tuple[tuple[int, ...], int]]] = defaultdict(list)
    for each in overview.replicas:
        for labels, series in each.counted.requests.items():
            if labels.space in spaces:
                found[labels.space, labels.version].append((series.counts, labels.status))
    return [_row(*key, of) for key, of in sorted(found.items())]


def _total(overview: Overview, spaces: set[str]) -> LatencyRow:
    """The look-ups of all versions."""
    requests = [each.counted.requests.items() for each in overview.replicas]
    of = [
        (series.counts, labels.status)
        for labels, series in chain(*requests)
        if labels.space in spaces
    ]
    return _row("", "", of)


def _row(space: str, version: str, of: list[tuple[tuple[int, ...], int]]) -> LatencyRow:
    """A row of series, each given as its counts and status."""
    counts = tuple(map(sum, zip(*(counts for counts, _ in of), strict=True)))
    failed = sum(sum(counts) for counts, status in of if status >= _SERVER_ERROR)
    p50, p99 = duration(quantile(counts, 0.5)), duration(quantile(counts, 0.99))
    return LatencyRow(space, version, sum(counts), failed, p50, p99)


def _replica(snapshot: Snapshot, overview: Overview, spaces: set[str]) -> ReplicaRow:
    newest: dict[str, int] = defaultdict(int)
    for each in overview.replicas:
        for space in each.spaces:
            newest[space.name] = max(newest[space.name], space.generation)
    counted = snapshot.counted.requests.values()
    shown = [space for space in snapshot.spaces if space.name in spaces]
    return ReplicaRow(
        name=snapshot.replica,
        host=snapshot.host,
        requests=sum(sum(series.counts) for series in counted),
        in_flight=snapshot.in_flight,
        spaces=len(shown),
        ready=sum(space.not_ready is None for space in shown),
        behind=[s.name for s in shown if s.generation < newest[s.name]],
    )


def duration(seconds: float | None) -> str:
    """A duration with two digits or more, such as `0.85 ms`."""
    if seconds is None:
        return "–"
    value, unit = (seconds, "s") if seconds >= 1 else (1000 * seconds, "ms")
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"  # noqa: PLR2004


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _ago(when: float) -> str:
    """How long ago a moment was, in seconds since 1970; 0: never."""
    if not when:
        return "unknown"
    seconds = max(int(datetime.now(UTC).timestamp() - when), 0)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("backstay.serving", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("status.html.j2")
