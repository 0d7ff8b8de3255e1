"""Watches registries for all replicas of a service, and decides what they have in force.

Each registry is polled once, however many replicas there are. Replicas wait for orders, and report
what they have prepared; see `rollout`.
"""

import asyncio
import logging
import time

from backstay.registry.store import Registry
from backstay.serving.monitor import Overview, Snapshot, Snapshots
from backstay.serving.rollout import Orders, Report, Rollout
from backstay.serving.watcher import Watcher

logger = logging.getLogger("backstay.serving")

ORDERS_SECONDS = 5.0
"""How long a call waits for new orders before it gets the same ones again."""

_SETTLE_SECONDS = 1.0  # between two checks for replicas that died
_UNUSED_SECONDS = 60.0  # then a registry that no replica asks for is watched no more


class WatchService:
    """The process that decides. Its methods are called by replicas, see `follower`."""

    def __init__(self) -> None:
        self._watched: dict[tuple[str, tuple[str, ...] | None], _Watched] = {}

    async def orders(
        self,
        registry: str,
        spaces: tuple[str, ...] | None,
        seconds: float,
        known: tuple[str, int],
    ) -> Orders:
        """Wait for orders other than those `known`, by session and serial.

        Args:
            registry: URI of the registry.
            spaces: The spaces that are served; None: all.
            seconds: Between two polls of the registry.
            known: Session and serial of the caller's orders.
        """
        return await self._watch(registry, spaces, seconds).wait(known)

    async def report(
        self, registry: str, spaces: tuple[str, ...] | None, seconds: float, report: Report
    ) -> None:
        """Take a replica's report."""
        watched = self._watch(registry, spaces, seconds)
        watched.rollout.report(report)
        watched.changed()

    async def share(
        self, registry: str, spaces: tuple[str, ...] | None, seconds: float, snapshot: Snapshot
    ) -> None:
        """Take a replica's snapshot."""
        self._watch(registry, spaces, seconds).snapshots.put(snapshot)

    async def gather(
        self, registry: str, spaces: tuple[str, ...] | None, seconds: float, snapshot: Snapshot
    ) -> Overview:
        """Take a replica's snapshot, and give those of all replicas."""
        watched = self._watch(registry, spaces, seconds)
        watched.snapshots.put(snapshot)
        return watched.overview()

    def check_health(self) -> None:
        """Raise if a registry is not watched any more: answers would become stale."""
        for watched in self._watched.values():
            if watched.task.done():
                raise RuntimeError(f"watching a registry has ended: {watched.task}")

    def _watch(self, registry: str, spaces: tuple[str, ...] | None, seconds: float) -> "_Watched":
        now = time.monotonic()
        for key, watched in list(self._watched.items()):
            if now > watched.asked + _UNUSED_SECONDS and key != (registry, spaces):
                watched.task.cancel()
                del self._watched[key]
        key = (registry, spaces)
        if key not in self._watched:
            self._watched[key] = _Watched(registry, spaces)
        watched = self._watched[key]
        watched.asked, watched.seconds = now, seconds
        return watched


class _Watched:
    """One registry."""

    def __init__(self, registry: str, spaces: tuple[str, ...] | None) -> None:
        self.rollout = Rollout(registry)
        self.snapshots = Snapshots()
        self.asked = 0.0  # when a replica asked last
        self.seconds = 1.0  # between two polls
        self._registry = registry
        self._watcher = Watcher(Registry(registry), spaces=spaces)
        self._changed = asyncio.Event()
        self._serial = 0
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def wait(self, known: tuple[str, int]) -> Orders:
        """Wait for orders other than those known."""
        end = time.monotonic() + ORDERS_SECONDS
        while True:
            orders, changed = self.rollout.orders, self._changed
            left = end - time.monotonic()
            if known != (orders.session, orders.serial) or left <= 0:
                return orders
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                continue

    def overview(self) -> Overview:
        """All replicas."""
        return Overview(replicas=self.snapshots.alive(), reads=self._watcher.reads)

    def changed(self) -> None:
        """Wake those who wait, if there are new orders."""
        if self.rollout.orders.serial != self._serial:
            self._serial = self.rollout.orders.serial
            self._changed.set()
            self._changed = asyncio.Event()

    async def _run(self) -> None:
        polling = asyncio.create_task(self._poll())
        try:
            while not polling.done():
                await asyncio.sleep(_SETTLE_SECONDS)
                self.rollout.settle()
                self.changed()
        finally:
            polling.cancel()

    async def _poll(self) -> None:
        while True:
            try:
                found = await asyncio.to_thread(self._watcher.poll)
            except Exception as error:  # noqa: BLE001 - drivers of stores raise errors of their own
                logger.warning("%s can't be read; it stays as it was: %s", self._registry, error)
            else:
                self.rollout.read(*found)
                self.changed()
            await asyncio.sleep(self.seconds)
