"""The spaces that one process serves, and the switch of each from one state to the next."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from backstay.errors import NotFoundError, NotReadyError
from backstay.registry.store import Registry
from backstay.registry.tokens import TokenSet
from backstay.serving.cache import evict, evict_other_shards
from backstay.serving.copies import Key, OpenTable, open_map_copy, open_table_copy
from backstay.serving.loader import Loader
from backstay.serving.rollout import Orders, Report
from backstay.serving.served import ServedSpace
from backstay.serving.sharding import Shard
from backstay.serving.slot import Slot
from backstay.serving.state import SpaceState, listed
from backstay.serving.uses import Uses
from backstay.serving.views import Views

if TYPE_CHECKING:
    from backstay.compat.maps import BackwardMap

logger = logging.getLogger("backstay.serving")

GRACE_SECONDS = 60.0
"""How long the state before stays open after a switch, for calls of several pages."""

_WAITING_SECONDS = 2.0  # when a request may be repeated that came before the first orders


class Shelf:
    """Follows orders, and gives the state that answers. Threads can share it.

    Args:
        registry: Where tables are copied from.
        cache: The folder for copies of this registry.
        shard: The part of each table to copy; None: all.
        open_table: Opens a table in another way than from a local copy.
        views_max_bytes: See `Views`.
        grace: Seconds for which the state before stays open.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        registry: Registry,
        cache: Path,
        *,
        shard: Shard | None = None,
        open_table: Callable[[Key], OpenTable] | None = None,
        views_max_bytes: int | None = None,
        grace: float = GRACE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.cache = cache
        self._grace = grace
        self._clock = clock
        self._shard = shard
        self._tables: Loader[Key, OpenTable] = Loader(
            open_table or (lambda key: open_table_copy(registry, key, cache=cache, shard=shard))
        )
        self._maps: Loader[Key, BackwardMap] = Loader(
            lambda key: open_map_copy(registry, key, cache=cache)
        )
        self._views = Views(cache, max_bytes=views_max_bytes, clock=clock)
        self._slots: dict[str, Slot] = {}
        self._orders: Orders | None = None
        self._changing = threading.Lock()
        self.uses = Uses(clock)
        self._evicted = clock()  # not at once: the views of the run before are not chosen yet

    @property
    def tokens(self) -> TokenSet | None:
        """The registry's access tokens; None until they could be read."""
        return self._orders.tokens if self._orders else None

    def names(self) -> list[str]:
        """The spaces that are served, or will be."""
        orders = self._orders
        return sorted({*self._slots, *(orders.faults if orders else ())})

    def slots(self) -> dict[str, Slot]:
        """The states of all spaces, after the switches that are due."""
        now = self._clock()
        return {name: slot.at(now) for name, slot in list(self._slots.items())}

    @property
    def load_failures(self) -> int:
        """Failed attempts to load tables and maps."""
        return self._tables.failed + self._maps.failed

    @property
    def open_views(self) -> int:
        """Tables that are converted ahead and open; see `Views`."""
        return len(self._views.loader.loaded())

    def slot(self, name: str) -> Slot:
        """The states of a space; NotFoundError if there is no such space."""
        slot = self._slots.get(name)
        if slot and (slot.after is None or self._clock() < slot.switch):
            return slot
        if slot:
            with self._changing:
                slot = self._slots.get(name, slot).at(self._clock())
                if name in self._slots:  # orders may have dropped it meanwhile
                    self._slots[name] = slot
            return slot
        orders = self._orders
        if orders is None:
            raise NotReadyError(
                "the registry has not been read yet. Repeat the request.",
                retry_after=_WAITING_SECONDS,
            )
        if name in orders.faults:
            raise NotReadyError(
                f"space {name!r} can't be served: {orders.faults[name]}",
                retry_after=_WAITING_SECONDS,
            )
        raise NotFoundError(
            f"there is no space {name!r} with a published version; there is {listed(self._slots)}."
        )

    def current(self, name: str) -> ServedSpace:
        """The state of a space that answers; NotReadyError before the first is prepared."""
        current = self.slot(name).current
        if current is None:
            raise NotReadyError(
                f"the tables of space {name!r} are being copied. Repeat the request.",
                retry_after=_WAITING_SECONDS,
            )
        return current

    def follow(self, orders: Orders) -> None:
        """Take the orders: prepare coming states in the background, and switch when ordered."""
        if not orders.serial:
            return  # nothing was read yet
        with self._changing:
            now = self._clock()
            slots = {}
            for name, order in orders.spaces.items():
                slot = self._slots.get(name, Slot(name)).at(now)
                if order.in_force:
                    slot = self._switch(slot, order.in_force, order.since, now)
                coming = self._prepare(slot, order.coming)
                slots[name] = replace(slot, coming=coming)
            for name in orders.faults:  # it may have been read before
                if name in self._slots and name not in slots:
                    slots[name] = self._slots[name]
            self._slots = slots
            # A watcher that could not read the tokens leaves those before in force.
            tokens = orders.tokens or self.tokens
            self._orders = replace(orders, tokens=tokens)

    def report(self, replica: str, *, first: bool = False) -> Report:
        """What this process has done; the `first` report to a session holds the states in force."""
        prepared, failed = {}, {}
        slots = self.slots()
        for name, slot in slots.items():
            space = slot.coming or slot.after or slot.current
            if space is None:
                continue
            given_up = slot.current.lacking() if slot.current else {}
            lacking = {k: why for k, why in space.lacking().items() if k not in given_up}
            unmoved = slot.current and slot.current.state.in_force == space.state.in_force
            if unmoved and self.uses.reads_latest(name):  # a promotion or rollback does not wait
                lacking |= space.loading(space.newest)
            if not lacking:
                prepared[name] = space.state.generation
            elif None not in lacking.values():
                failed[name] = space.state.generation
        current = [s.current.state for s in slots.values() if s.current] if first else []
        return Report(
            replica=replica,
            shard=self._shard is not None,
            prepared=prepared,
            failed=failed,
            in_force=tuple(current),
        )

    def tick(self, *, now: bool = False) -> None:
        """Repeat failed loads that are due (`now`: all), and close and evict what is not needed."""
        for slot in list(self._slots.values()):
            for space in slot.spaces():
                if space is not slot.before:
                    space.want(self._lasting(space), now=now)
        self._close()
        self.choose_views()

    def choose_views(self) -> None:
        """Make the views of the states that answer in the background; close what is not needed."""
        slots = [slot.at(self._clock()) for slot in list(self._slots.values())]
        self._views.choose([recipe for s in slots if s.current for recipe in s.current.recipes()])

    def wait(self, *, seconds: float | None = None, views: bool = False) -> None:
        """Wait until nothing is being loaded; `views`: and no view is being made."""
        self._maps.wait(seconds=seconds)
        self._tables.wait(seconds=seconds)
        if views:
            self._views.loader.wait(seconds=seconds)

    def generations(self) -> dict[str, int]:
        """The generation of each space's state that answers."""
        slots = self.slots().items()
        return {name: slot.current.state.generation for name, slot in slots if slot.current}

    def starting(self) -> bool:
        """Whether a space waits for its first state, or for a first attempt to load its tables."""
        # A shard does not wait for the state in force, because routers wait for the shard.
        firsts = [s.current or (s.coming if self._shard else None) for s in self.slots().values()]
        return self._orders is None or any(
            first is None or None in first.lacking().values() for first in firsts
        )

    def lacking(self) -> dict[str, str]:
        """Spaces that can't answer for the version in force, and why."""
        orders = self._orders
        if orders is None:
            return {"registry": "it has not been read yet."}
        why = dict(orders.faults)
        for name, slot in self.slots().items():
            current = slot.current
            if current is None:
                why.setdefault(name, "its tables are being copied.")
            elif lacking := current.lacking():
                key, reason = next(iter(lacking.items()))
                why[name] = reason or f"{key} is being copied."
            else:
                why.pop(name, None)  # it answers from the state that was read last
        return why

    def failures(self) -> dict[str, str]:
        """Spaces that can't be read from the registry or prepared, and why; they may answer."""
        why = self.lacking() | (self._orders.faults if self._orders else {})
        for name, slot in self._slots.items():
            for space in (slot.coming, slot.after):
                reasons = [reason for reason in space.lacking().values() if reason] if space else []
                if reasons:
                    why.setdefault(name, reasons[0])
        return why

    def _switch(self, slot: Slot, state: SpaceState, since: float, now: float) -> Slot:
        newest = slot.after or slot.current
        if newest and newest.state.generation == state.generation:
            return slot
        coming = slot.coming
        if coming is None or coming.state.generation != state.generation:
            coming = self._space(state)
        if slot.after:  # two switches in one lead
            slot = slot.at(slot.switch)
        logger.info("space %s: version %d is in force", slot.name, state.in_force)
        return replace(slot, after=coming, switch=max(since, now)).at(now)

    def _prepare(self, slot: Slot, state: SpaceState | None) -> ServedSpace | None:
        if state is None:
            return None
        if slot.coming and slot.coming.state.generation == state.generation:
            return slot.coming
        return self._space(state)

    def _space(self, state: SpaceState) -> ServedSpace:
        space = ServedSpace(state, self._tables, self._maps, self._views, self.uses.use)
        space.want(self._lasting(space))
        return space

    def _lasting(self, space: ServedSpace) -> list[Key]:
        """What a state holds open; first what answers for the version in force."""
        newest = space.newest if self.uses.reads_latest(space.state.space) else []
        return [*space.wanted, *space.pinned, *newest]

    def _close(self) -> None:
        """Close what no state needs, and remove its copies."""
        now = self._clock()
        keep: set[Key] = set()
        with self._changing:
            for name, slot in self._slots.items():
                slot = slot.at(now)  # noqa: PLW2901
                if slot.before and now >= slot.switch + self._grace:
                    slot = replace(slot, before=None)  # noqa: PLW2901
                self._slots[name] = slot
                for space in slot.spaces():
                    keep.update(self._lasting(space))
                    space.release()
        keep |= self.uses.recent()
        for loader in (self._tables, self._maps):
            loader.drop([key for key in loader.loaded() if key not in keep])
        orders = self._orders
        if orders is None or now < self._evicted + self._grace:
            return
        self._evicted = now
        folders = {key.folder(self.cache) for key in keep} | self._views.folders()
        for folder in self.cache.iterdir() if self.cache.is_dir() else ():
            if folder.is_dir() and folder.name not in orders.faults:
                evict(folder, keep=folders)
        evict_other_shards(self.cache)
