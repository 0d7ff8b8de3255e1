"""How a replica follows the orders of the service that watches the registry."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from backstay.serving.lookup import Lookup
from backstay.serving.monitor import Overview, Snapshot
from backstay.serving.rollout import Orders, Report
from backstay.serving.watch_service import ORDERS_SECONDS

logger = logging.getLogger("backstay.serving")

_CHECK_SECONDS = 0.25  # between two checks whether a coming state is prepared
_HEARTBEAT_SECONDS = 5.0  # between two reports while nothing changes, and between two snapshots
_TIMEOUT_SECONDS = 2 * ORDERS_SECONDS  # of a call
_RETRY_SECONDS = 1.0


class Watching(Protocol):
    """The calls of `WatchService`, made from another process."""

    async def orders(self, known: tuple[str, int]) -> Orders:
        """See `WatchService.orders`."""

    async def report(self, report: Report) -> None:
        """See `WatchService.report`."""

    async def share(self, snapshot: Snapshot) -> None:
        """See `WatchService.share`."""

    async def gather(self, snapshot: Snapshot) -> Overview:
        """See `WatchService.gather`."""


class Follower:
    """Keeps a replica's look-up in step with all others.

    If the watching service can't be reached, the replica goes on with what it has.

    Args:
        lookup: Of the replica.
        watching: The service.
        replica: The replica's name.
        snapshot: What `share` is called with from time to time.
    """

    def __init__(
        self,
        lookup: Lookup,
        watching: Watching,
        *,
        replica: str,
        snapshot: Callable[[], Awaitable[Snapshot]] | None = None,
    ) -> None:
        self._shelf = lookup.shelf
        self._watching = watching
        self._replica = replica
        self._snapshot = snapshot
        self._orders = ("", 0)  # session and serial
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Follow, in tasks of the running event loop."""
        loops = [self._follow, self._report, self._tick]
        if self._snapshot:
            loops.append(self._share)
        self._tasks = [asyncio.create_task(loop()) for loop in loops]

    def stop(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()

    @property
    def following(self) -> bool:
        """Whether it still follows."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def ready(self, *, seconds: float) -> None:
        """Wait until every space can answer or has failed, but not longer than `seconds`."""
        end = time.monotonic() + seconds
        while self._shelf.starting() and time.monotonic() < end:  # noqa: ASYNC110 - set by threads
            await asyncio.sleep(_CHECK_SECONDS / 5)

    async def _follow(self) -> None:
        failing = False
        while True:
            try:
                call = self._watching.orders(self._orders)
                orders = await asyncio.wait_for(call, _TIMEOUT_SECONDS)
            except Exception as error:  # noqa: BLE001 - whatever a dead actor or network raises
                if not failing:
                    logger.warning(
                        "the service that watches the registry can't be reached; serving the last "
                        "state: %s",
                        error or type(error).__name__,
                    )
                failing = True
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                failing = False
                self._orders = orders.session, orders.serial
                self._shelf.follow(orders)

    async def _report(self) -> None:
        sent: Report | None = None
        session, at = "", 0.0
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            present = self._orders[0]
            first = present != session
            report = self._shelf.report(self._replica, first=first)
            if not present or (
                report == sent and time.monotonic() < at + _HEARTBEAT_SECONDS and not first
            ):
                continue
            try:
                await asyncio.wait_for(self._watching.report(report), _TIMEOUT_SECONDS)
            except Exception as error:  # noqa: BLE001 - whatever a dead actor or network raises
                logger.debug("the report was not taken: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                session, at = present, time.monotonic()
                sent = replace(report, in_force=())

    async def _share(self) -> None:
        while self._snapshot:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            try:
                call = self._watching.share(await self._snapshot())
                await asyncio.wait_for(call, _TIMEOUT_SECONDS)
            except Exception as error:  # noqa: BLE001 - whatever a dead actor or network raises
                logger.debug("the snapshot was not taken: %s", error)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                await asyncio.to_thread(self._shelf.tick)
            except OSError as error:  # of the cache's disk
                logger.warning("copies of tables can't be looked after: %s", error)
