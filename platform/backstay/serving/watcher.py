"""Reads from the registry what each space serves, by one request while nothing changes."""

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

from backstay.errors import ServiceError
from backstay.registry.manifest import is_safe_name
from backstay.registry.store import Registry
from backstay.registry.tokens import TokenSet, read_tokens, tokens_change
from backstay.serving.reads import TimedReads
from backstay.serving.state import SpaceState, read_state, renumbered

logger = logging.getLogger("backstay.serving")

READ_SECONDS = 30.0
"""Time limit for reading the state of a space."""

FULL_EVERY = 60
"""A poll of so many reads everything, in case a writer was killed before it renewed the marker."""


@dataclass(frozen=True)
class Reads:
    """How a registry could be read."""

    last: float = 0.0  # when it could be read last, in seconds since 1970; 0: never
    failures: int = 0  # polls that failed


class Registered(NamedTuple):
    """What was read from a registry."""

    states: dict[str, SpaceState]
    faults: dict[str, str]  # spaces that can't be read now, and why
    tokens: TokenSet | None  # None: they could not be read yet


class Watcher:
    """A registry's access tokens and the states of its spaces, as they could be read last.

    Args:
        registry: The registry.
        spaces: The spaces to read; None: all of it.
        seconds: Time limit for reading a space. The registry may hang for longer.
        full_every: Read everything in each poll of so many.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        spaces: Collection[str] | None = None,
        seconds: float = READ_SECONDS,
        full_every: int = FULL_EVERY,
    ) -> None:
        self.states: dict[str, SpaceState] = {}
        self.faults: dict[str, str] = {}  # spaces that can't be read now, and why
        self.reads = Reads()
        self.tokens: TokenSet | None = None  # None: they could not be read yet
        self._registry = registry
        self._only = spaces
        self._full_every = full_every
        self._polls = 0
        self._marker: str | None = None  # of the registry, if all that it covers was read
        self._markers: dict[str, str | None] = {}  # of each space that was read
        self._tokens_marker: str | None = None
        self._tokens_fault = ""
        self._timed = TimedReads(seconds)

    def poll(self, *, full: bool = False) -> Registered:
        """Read what changed since the last poll, and return all; `full`: read everything.

        Raises OSError or an error of the store's driver if the registry can't be read. A space that
        can't be read keeps its last state, and `faults` has the reason.
        """
        try:
            self._poll(full=full)
        except Exception:
            self.reads = replace(self.reads, failures=self.reads.failures + 1)
            raise
        self.reads = replace(self.reads, last=time.time())
        return Registered(self.states, self.faults, self.tokens)

    def _poll(self, *, full: bool) -> None:
        full = full or self._polls % self._full_every == 0
        marker = self._timed.one("", self._registry.change_token)
        if not full and marker is not None and marker == self._marker:
            self._polls += 1
            return
        self._read_tokens(full=full)
        names = self._timed.one("/", self._names)
        results = self._timed.run({name: self._reading(name, full=full) for name in names})
        states, markers, faults = {}, {}, {}
        for name, result in results.items():
            if isinstance(result, Exception):
                faults[name] = str(result) or type(result).__name__
                if self.faults.get(name) != faults[name]:
                    logger.error("space %s can't be read: %s", name, faults[name])
                if name in self.states:
                    states[name] = self.states[name]
            elif result[1] is not None:
                markers[name] = result[0]
                states[name] = renumbered(result[1], self.states, now=time.time())
        self.states, self.faults, self._markers = states, faults, markers
        self._marker = None if faults or self._tokens_fault else marker
        self._polls += 1

    def _read_tokens(self, *, full: bool) -> None:
        """Read the access tokens, unless their marker has not changed. Failures are logged."""
        files, known = self._registry.files, self.tokens

        def read() -> tuple[str | None, TokenSet]:
            marker = tokens_change(files)  # before the rest, so that a later write is found
            if not full and known and marker is not None and marker == self._tokens_marker:
                return marker, known
            found = read_tokens(files)
            if known and known.any_made and not found.any_made:
                raise ServiceError("all have vanished. Check that the registry's disk is mounted.")
            return marker, found

        try:
            self._tokens_marker, found = self._timed.one("/tokens", read)
        except Exception as error:  # noqa: BLE001 - drivers of stores raise errors of their own
            fault = str(error) or type(error).__name__
            if fault != self._tokens_fault:
                logger.warning("the access tokens can't be read; they stay as they were: %s", fault)
            self._tokens_fault = fault
            return
        self._tokens_fault = ""
        for id_, why in found.damaged.items():
            if known is None or id_ not in known.damaged:
                logger.error("token %s is refused: %s", id_, why)
        self.tokens = found

    def _names(self) -> list[str]:
        """The folders that may be spaces."""
        names = [name for name in self._registry.files.folders("") if is_safe_name(name)]
        if self.states and not names:
            raise ServiceError(
                f"expected spaces in {self._registry.uri}, found it empty. It is served as it was "
                "read last: check that its disk is mounted."
            )
        return [name for name in names if self._only is None or name in self._only]

    def _reading(
        self, name: str, *, full: bool
    ) -> Callable[[], tuple[str | None, SpaceState | None]]:
        """A function that reads a space, unless its marker has not changed."""
        known, before = self.states.get(name), self._markers.get(name)

        def read() -> tuple[str | None, SpaceState | None]:
            space = self._registry.space(name)
            marker = space.change_token()  # before the rest, so that a later write is found
            if not full and known and marker is not None and marker == before:
                return marker, known
            return marker, read_state(space)

        return read
