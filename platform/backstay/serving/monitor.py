"""Snapshots of the replicas of a service, and the look at all of them.

Each replica sends its snapshots to the process that watches the registry. Whoever is asked for
metrics gets the newest of all replicas from there, so every scrape shows the whole service, and no
counter ever falls because another replica was scraped.
"""

import asyncio
import logging
import os
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import State

import backstay
from backstay.serving.lookup import Lookup
from backstay.serving.metrics import Counted, Metrics
from backstay.serving.rollout import ALIVE_SECONDS
from backstay.serving.state import SpaceState
from backstay.serving.vectors import Vectors
from backstay.serving.watcher import Reads

if TYPE_CHECKING:
    from backstay.serving.access_log import AccessLog

logger = logging.getLogger("backstay.serving")

_DISK_SECONDS = 15.0  # between two looks at the size of the cache
_GATHER_SECONDS = 2.0  # to wait for the other replicas' snapshots


@dataclass(frozen=True, kw_only=True)
class SpaceSnapshot:
    """One space in one replica."""

    name: str
    not_ready: str | None = None  # why it can't answer for the version in force
    failing: str | None = None  # why it can't be refreshed; it may answer all the same
    # The rest is empty until the first state is in force.
    generation: int = 0
    in_force: int | None = None  # version
    latest: int | None = None
    since: float = 0.0  # when the state came into force here; seconds since 1970, 0: unknown
    sources: dict[str, int] = field(default_factory=dict)  # entity -> version of its table
    created: dict[str, float] = field(default_factory=dict)  # entity -> when that was published


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One replica at one moment."""

    replica: str
    host: str
    serial: int  # grows with each snapshot of a replica
    release: str  # of Backstay
    counted: Counted
    in_flight: int  # look-ups of many ids
    load_failures: int  # of tables and maps
    views: int  # tables that are converted ahead
    lost_shards: int  # that do not answer
    log_lines_dropped: int
    cache_bytes: int
    cache_free_bytes: int
    spaces: tuple[SpaceSnapshot, ...]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All replicas of a service."""

    replicas: tuple[Snapshot, ...]  # sorted by name
    reads: Reads | None  # of the registry; None: unknown
    complete: bool = True  # False: other replicas are missing, because nobody could be asked


class Snapshots:
    """The newest snapshot of each replica that is alive."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._newest: dict[str, tuple[Snapshot, float]] = {}

    def put(self, snapshot: Snapshot) -> None:
        """Take a snapshot, unless a newer one of the replica has overtaken it."""
        before = self._newest.get(snapshot.replica)
        if before is None or before[0].serial < snapshot.serial:
            self._newest[snapshot.replica] = snapshot, self._clock()

    def alive(self) -> tuple[Snapshot, ...]:
        """Of each replica that sent one lately, the newest."""
        oldest = self._clock() - ALIVE_SECONDS
        self._newest = {n: each for n, each in self._newest.items() if each[1] >= oldest}
        return tuple(self._newest[name][0] for name in sorted(self._newest))


class Monitor:
    """The snapshots of one app, and through `gather` those of all replicas.

    Args:
        state: Of the app: `lookup` and `log` may be replaced while it runs.
        metrics: What the app counts.
        vectors: For the look-ups in flight.
        replica: The name of this process in the service; None: its id.
    """

    def __init__(
        self, state: State, *, metrics: Metrics, vectors: Vectors, replica: str | None = None
    ) -> None:
        self.gather: Callable[[Snapshot], Awaitable[Overview]] | None = None  # set by a replica
        self._state = state
        self._metrics = metrics
        self._vectors = vectors
        self._replica = replica or str(os.getpid())
        self._serial = 0
        self._disk = (0, 0)
        self._disk_time = 0.0

    async def snapshot(self) -> Snapshot:
        """This replica now."""
        lookup: Lookup | None = self._state.lookup
        log: AccessLog = self._state.log
        now = time.monotonic()
        if lookup and now >= self._disk_time + _DISK_SECONDS:
            self._disk_time = now
            self._disk = await asyncio.to_thread(_disk, lookup.shelf.cache)
        self._serial += 1
        return Snapshot(
            replica=self._replica,
            host=socket.gethostname(),
            serial=self._serial,
            release=backstay.__version__,
            counted=self._metrics.counted(),
            in_flight=self._vectors.in_flight,
            load_failures=lookup.shelf.load_failures if lookup else 0,
            views=lookup.shelf.open_views if lookup else 0,
            lost_shards=len(lookup.lost) if lookup else 0,
            log_lines_dropped=log.dropped,
            cache_bytes=self._disk[0],
            cache_free_bytes=self._disk[1],
            spaces=spaces(lookup) if lookup else (),
        )

    async def overview(self) -> Overview:
        """All replicas; only this one if the others can't be asked."""
        own = await self.snapshot()
        if self.gather is None:
            lookup: Lookup | None = self._state.lookup
            return Overview(replicas=(own,), reads=lookup.reads if lookup else None)
        try:
            return await asyncio.wait_for(self.gather(own), _GATHER_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever a dead actor or network raises
            logger.warning("the other replicas' metrics are missing: %r", error)
            return Overview(replicas=(own,), reads=None, complete=False)


def spaces(lookup: Lookup) -> tuple[SpaceSnapshot, ...]:
    """The spaces of a look-up, by name."""
    not_ready, failing = lookup.ready(), lookup.failures
    slots = lookup.shelf.slots()
    found = []
    for name in sorted({*slots, *not_ready, *failing}):
        of: Sequence[str | None] = (not_ready.get(name), failing.get(name))
        slot = slots.get(name)
        if slot is None or slot.current is None:
            found.append(SpaceSnapshot(name=name, not_ready=of[0], failing=of[1]))
            continue
        state = slot.current.state
        sources = state.tables()
        found.append(
            SpaceSnapshot(
                name=name,
                not_ready=of[0],
                failing=of[1],
                generation=state.generation,
                in_force=state.in_force,
                latest=state.latest,
                since=slot.switch,
                sources=sources,
                created={entity: created(state, k) for entity, k in sources.items()},
            )
        )
    return tuple(found)


def created(state: SpaceState, version: int) -> float:
    """When a version was published, in seconds since 1970."""
    return datetime.fromisoformat(state.versions[version].created).timestamp()


def _disk(cache: Path) -> tuple[int, int]:
    """Bytes in a folder, and bytes free on its disk."""
    size = 0
    for path in cache.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # removed meanwhile
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return size, shutil.disk_usage(place).free
