"""Puts a new state of a space in force on all replicas at once, in two phases.

1. The replicas prepare it: they copy and open its tables, and report that.
2. When all have prepared it, an order puts it in force from one moment on.

`Rollout` decides; it reads no registry and opens no table. In a service, one process has it, and
all replicas exchange orders and reports with that process. A `Lookup` without replicas has its own.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import compress
from uuid import uuid4

from backstay.registry.tokens import TokenSet
from backstay.serving.state import SpaceState

ALIVE_SECONDS = 15.0
"""A replica that has not reported for so long is not waited for."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What replicas do with one space."""

    in_force: SpaceState | None  # answer from it from `since` on; None: go on as before
    since: float = 0.0  # seconds since 1970
    coming: SpaceState | None = None  # prepare it


@dataclass(frozen=True, kw_only=True)
class Orders:
    """The orders for all spaces. A space without one is served no more."""

    session: str  # of the process that decides
    serial: int  # grows with each change in a session; 0 until the registry was read
    registry: str  # its URI
    spaces: dict[str, Order]
    faults: dict[str, str] = field(default_factory=dict)  # spaces that can't be read, and why
    tokens: TokenSet | None = None  # None: they could not be read; go on with those before


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a replica has done: generations by space."""

    replica: str
    shard: bool = False  # it answers for other replicas, and no requests
    prepared: dict[str, int]  # newest state that it could put in force
    failed: dict[str, int]  # coming state that it tried to prepare without success
    in_force: tuple[SpaceState, ...] = ()  # in the first report to a session


@dataclass
class _Coming:
    state: SpaceState
    prepared: float | None = None  # when the first replica had prepared it


class Rollout:
    """Decides which state of each space is in force.

    Args:
        registry: URI of the registry, for the orders.
        patience: Seconds to wait for all replicas to prepare a state after the first one has.
            After that, those that have not answer 503 for the space until they have.
        lead: Seconds from the decision until it holds: the time in which all replicas get it.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        registry: str,
        *,
        patience: float = 300.0,
        lead: float = 0.5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._patience = patience
        self._lead = lead
        self._clock = clock
        self._in_force: dict[str, tuple[SpaceState, float]] = {}
        self._coming: dict[str, _Coming] = {}
        self._reports: dict[str, tuple[Report, float]] = {}
        self._tokens: TokenSet | None = None
        self.orders = Orders(session=uuid4().hex, serial=0, registry=registry, spaces={})

    def read(
        self,
        states: Mapping[str, SpaceState],
        faults: Mapping[str, str],
        tokens: TokenSet | None = None,
    ) -> None:
        """Take what was read from the registry."""
        self._tokens = tokens
        for gone in [name for name in self._in_force if name not in {*states, *faults}]:
            del self._in_force[gone]
        coming = {}
        for name, state in states.items():
            before, in_force = self._coming.get(name), self._in_force.get(name)
            if in_force and in_force[0].same(state):
                continue
            coming[name] = before if before and before.state == state else _Coming(state)
        self._coming = coming
        self._order(faults, read=True)

    def report(self, report: Report) -> None:
        """Take the report of a replica."""
        now = self._clock()
        self._reports[report.replica] = report, now
        for state in report.in_force:
            # This process has just started: what replicas answer from is in force.
            if state.space not in self._in_force:
                self._in_force[state.space] = state, 0.0
                coming = self._coming.get(state.space)
                if coming and coming.state.same(state):
                    del self._coming[state.space]
        self._order(self.orders.faults)

    def settle(self) -> None:
        """Decide again: a replica may have died, or the patience may have ended."""
        self._order(self.orders.faults)

    def _order(self, faults: Mapping[str, str], *, read: bool = False) -> None:
        now = self._clock()
        self._reports = {
            name: (report, at)
            for name, (report, at) in self._reports.items()
            if now - at < ALIVE_SECONDS
        }
        for name, coming in list(self._coming.items()):
            if self._decided(name, coming, now):
                lead = self._lead if len(self._reports) > 1 else 0.0
                self._in_force[name] = coming.state, now + lead
                del self._coming[name]
        spaces = {}
        for name in sorted({*self._in_force, *self._coming}):
            in_force, since = self._in_force.get(name, (None, 0.0))
            after = self._coming.get(name)
            spaces[name] = Order(
                in_force=in_force, since=since, coming=after.state if after else None
            )
        before = self.orders
        first = read and not before.serial
        told = before.spaces, before.faults, before.tokens
        if first or (before.serial and (spaces, faults, self._tokens) != told):
            self.orders = Orders(
                session=before.session,
                serial=before.serial + 1,
                registry=before.registry,
                spaces=spaces,
                faults=dict(faults),
                tokens=self._tokens,
            )

    def _decided(self, name: str, coming: _Coming, now: float) -> bool:
        """Whether the coming state of a space is put in force."""
        generation = coming.state.generation
        reports = [report for report, _ in self._reports.values()]
        prepared = [report.prepared.get(name) == generation for report in reports]
        able = [not report.shard for report in reports]  # to answer requests
        if not any(compress(prepared, able if any(able) else prepared)):
            failed = [report.failed.get(name) == generation for report in reports]
            return bool(reports) and all(failed) and name not in self._in_force
        if coming.prepared is None:
            coming.prepared = now
        if all(prepared) or now - coming.prepared >= self._patience:
            return True
        settled = [
            done or report.failed.get(name) == generation
            for report, done in zip(reports, prepared, strict=True)
        ]
        return all(settled) and name not in self._in_force
