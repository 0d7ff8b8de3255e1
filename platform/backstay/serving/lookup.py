"""Versioned look-up: one table and its chain of maps answer for many versions."""

import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Self

from backstay.errors import NotReadyError, SourceChangedError, UsageError
from backstay.registry.aliases import LATEST
from backstay.registry.store import Registry
from backstay.registry.tokens import TokenSet
from backstay.serving.answering import Answering
from backstay.serving.cache import cache_folder
from backstay.serving.copies import Key, OpenTable
from backstay.serving.description import SpaceDescription, describe
from backstay.serving.found import Found
from backstay.serving.ids import as_ids
from backstay.serving.rollout import Rollout
from backstay.serving.sharding import Shard
from backstay.serving.shelf import GRACE_SECONDS, Shelf
from backstay.serving.watcher import READ_SECONDS, Reads, Watcher

logger = logging.getLogger("backstay.serving")

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_LOADED_SECONDS = 0.25  # between two checks whether a coming state is prepared
_CLOSING_SECONDS = 5.0  # to wait for the watching thread, which may wait for a registry that hangs
_BEHIND_SECONDS = 1.0  # when a request may be repeated for a version that is not taken up yet


class Lookup:
    """Answers look-ups of a registry's spaces. Threads can share it. Close it, or use `with`.

    The constructor reads the registry and copies the tables in force into `cache`. `watch` then
    follows the registry. An answer comes from one table, whatever is published meanwhile. Other
    tables are copied in the background when a request needs them; until then it gets NotReadyError.

    Args:
        registry: The registry, or its path or URL.
        cache: Local folder for copies of tables. Processes can share it.
        spaces: The spaces to serve; None: all of the registry.
        load: False: read nothing; the caller passes orders to `shelf.follow`, as replicas do.
        shard: The part of each table to serve; None: all.
        open_table: See `Shelf`.
        part: See `cache_folder`.
        views_max_bytes: Most bytes of disk for tables that are converted ahead to older versions,
            see `views`. None: as many as the tables have that they are made from. 0: none.
        grace: Seconds for which the tables before stay open after a switch.
        read_seconds: Time limit for reading the state of a space.
    """

    def __init__(
        self,
        registry: Registry | str,
        *,
        cache: str | Path,
        spaces: Collection[str] | None = None,
        load: bool = True,
        shard: Shard | None = None,
        open_table: Callable[[Key], OpenTable] | None = None,
        part: str = "",
        views_max_bytes: int | None = None,
        grace: float = GRACE_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        registry = Registry(registry) if isinstance(registry, str) else registry
        self.shelf = Shelf(
            registry,
            cache_folder(cache, registry.uri, shard.part if shard else part),
            shard=shard,
            open_table=open_table,
            views_max_bytes=0 if shard else views_max_bytes,
            grace=grace,
        )
        self._watcher = Watcher(registry, spaces=spaces, seconds=read_seconds)
        self._rollout = Rollout(registry.uri)
        self._refreshing = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if load:
            self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._thread:
            self._thread.join(_CLOSING_SECONDS)

    def watch(self, *, seconds: float) -> None:
        """Follow the registry in a thread until closed: look for changes every `seconds`.

        Copies of tables are made in other threads. Failures are logged, and tried again.
        """

        def loop() -> None:
            waited = seconds
            while not self._closed.wait(min(seconds, _LOADED_SECONDS)):
                waited += min(seconds, _LOADED_SECONDS)
                try:
                    if waited >= seconds:
                        waited = 0.0
                        self.shelf.tick()
                        self._poll()
                    self._settle()
                except Exception as error:  # noqa: BLE001 - drivers raise errors of their own
                    logger.warning("the registry can't be read; serving the last state: %s", error)

        self._thread = threading.Thread(target=loop, name="backstay-watch", daemon=True)
        self._thread.start()

    @property
    def watching(self) -> bool:
        """Whether the watching thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def reads(self) -> Reads:
        """How the registry could be read."""
        return self._watcher.reads

    @property
    def tokens(self) -> TokenSet | None:
        """The registry's access tokens; None until they could be read."""
        return self.shelf.tokens

    @property
    def failures(self) -> dict[str, str]:
        """Spaces that could not be refreshed, and why. They may still answer as before."""
        return self.shelf.failures()

    @property
    def lost(self) -> dict[int, str]:
        """The shards that don't answer, and why; see `Router`."""
        return {}

    def ready(self) -> dict[str, str]:
        """Spaces that can't answer for the version in force, and why; empty: all can."""
        return self.shelf.lacking()

    def refresh(self) -> list[str]:
        """Read everything now and load it; return the names of the spaces that changed.

        Raises OSError if the registry can't be read. See `failures` for spaces that can't.
        """
        with self._refreshing:
            before = self.shelf.generations()
            self._poll(full=True)
            self.shelf.tick(now=True)
            self.wait()
            self._settle()
            self.shelf.choose_views()
            after = self.shelf.generations()
            return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))

    def wait(self, *, seconds: float | None = None, views: bool = False) -> None:
        """Wait until no table is being copied; `views`: and none is being converted ahead."""
        self.shelf.wait(seconds=seconds, views=views)

    def spaces(self) -> list[str]:
        """The names of the served spaces."""
        return self.shelf.names()

    def describe(self, space: str) -> SpaceDescription:
        """The versions and entities of a space."""
        return describe(self.shelf.current(space).state)

    def resolve(
        self, space: str, version: int | str | None = None, *, consumer: str | None = None
    ) -> int:
        """The number of a version, given as a number, an alias or `latest`.

        None: the version that the contract of `consumer` names, else `prod`, else `latest`.
        Raises NotFoundError for an unknown space or alias, NotReadyError if the space can't be
        served yet.
        """
        return self.shelf.current(space).state.resolve(version, consumer=consumer)

    def parse_id(self, space: str, entity: str, text: str) -> int | str:
        """An id from a URL, converted to the type of the table's ids; UsageError if that fails."""
        if self.shelf.current(space).id_type(entity) != "int64":
            return text
        if not _INTEGER.fullmatch(text):
            raise UsageError(f"ids of {entity!r} of space {space!r} are integers; found {text!r}.")
        return int(text)

    def gathers(
        self, space: str, entity: str, version: int | str | None = None, *, consumer: str | None
    ) -> bool:
        """Whether look-ups of a version only gather rows, so that they take no product."""
        served = self.shelf.current(space)
        target = served.state.resolve(version, consumer=consumer)
        return served.answering(entity, target).chain is None

    def vectors(
        self,
        space: str,
        entity: str,
        ids: Sequence[int | str],
        *,
        version: int | str | None = None,
        consumer: str | None = None,
        source: int | None = None,
    ) -> Found:
        """Vectors of `ids` in the space of `version`; see `resolve`.

        `source`: answer from the table of this version and no other.
        Raises NotFoundError for an unknown space, entity or version, MissingMapError if the chain
        to `version` is broken, UsageError for ids of the wrong type, NotReadyError if the table
        can't be read yet, SourceChangedError if the table of `source` can't be read any more.
        """
        while True:
            answering = self.answering(space, entity, version, consumer=consumer, source=source)
            table = answering.opened.table
            asked = as_ids(ids, table.sorted_ids.type, of=f"{entity!r} of space {space!r}")
            rows, found = table.find(asked)
            values = (answering.view or table).gather(rows)
            if answering.intact():
                break
            for served in self.shelf.slot(space).spaces():  # the files have changed: open others
                served.release()
        if answering.source != answering.target:
            answering.demand.rows += len(rows)
            answering.demand.used = time.time()
        return answering.answer(asked, found, values)

    def answering(
        self,
        space: str,
        entity: str,
        version: int | str | None,
        *,
        consumer: str | None,
        source: int | None,
    ) -> Answering:
        """What answers for a version. The arguments and errors are those of `vectors`."""
        current = self.shelf.current(space)  # once: the next one may be another
        if version == LATEST:
            self.shelf.uses.ask_latest(space)
        target = current.state.resolve(version, consumer=consumer)
        if source is None:
            return current.answering(entity, target)
        for served in (current, *self.shelf.slot(space).spaces()):  # the state before too
            if source in served.sources(entity, target):
                return served.answering_from(source, entity, target)
        if source > current.state.latest:
            raise NotReadyError(
                f"version {source} of space {space!r} is not taken up here yet; the newest is "
                f"{current.state.latest}. Repeat the request.",
                retry_after=_BEHIND_SECONDS,
            )
        present = current.sources(entity, target)
        if not present:
            raise current.state.why_unreadable(entity, target)
        raise SourceChangedError(
            f"{entity!r} of space {space!r} can't be answered from version {source} any more; "
            f"version {present[0]} answers now. Repeat all pages of the call.",
            present=present[0],
        )

    def _poll(self, *, full: bool = False) -> None:
        self._rollout.read(*self._watcher.poll(full=full))
        self.shelf.follow(self._rollout.orders)

    def _settle(self) -> None:
        """Put in force what is prepared."""
        self._rollout.report(self.shelf.report("this process"))
        self.shelf.follow(self._rollout.orders)
