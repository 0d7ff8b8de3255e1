"""A space at one moment: its state, and the open tables, maps and views that answer for it."""

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property, partial

from backstay.compat.maps import BackwardMap, compose
from backstay.errors import NotReadyError
from backstay.serving.answering import Answering
from backstay.serving.copies import Key, OpenTable
from backstay.serving.loader import Loader
from backstay.serving.state import SpaceState
from backstay.serving.views import Recipe, View, ViewKey, Views
from backstay.storage.ids import IdType

_COPYING_SECONDS = 2.0  # when a request may be repeated that waits for a copy


class ServedSpace:
    """A space with a state that never changes; a change in the registry makes a new one.

    `used` is called with the key of each table that answers, and that is neither in force nor
    pinned by a contract: such tables are closed after a while.
    """

    def __init__(
        self,
        state: SpaceState,
        tables: Loader[Key, OpenTable],
        maps: Loader[Key, BackwardMap],
        views: Views,
        used: Callable[[Key], None],
    ) -> None:
        self.state = state
        self._tables = tables
        self._maps = maps
        self._views = views
        self._used = used
        self._fingerprints: dict[tuple[str, int], str] = {}
        self._sources: dict[tuple[str, int], list[int]] = {}  # found when used
        self._chains: dict[tuple[int, int], BackwardMap] = {}  # composed when used
        self._id_types: dict[str, IdType] = {}
        # What answered last, and how many items had been loaded and dropped by then.
        self._answers: dict[tuple[int, str, int], tuple[int, Answering]] = {}

    def answering(self, entity: str, target: int) -> Answering:
        """The table and chain that answer for version `target`.

        That is the first of `SpaceState.sources` that can be loaded. Raises NotFoundError if there
        is none, and NotReadyError while it is being loaded.
        """
        sources = self.sources(entity, target)
        if not sources:
            raise self.state.why_unreadable(entity, target)
        for source in sources[:-1]:
            try:
                return self.answering_from(source, entity, target)
            except NotReadyError:
                if self._loading(entity, source, target):
                    raise
        return self.answering_from(sources[-1], entity, target)

    def answering_from(self, source: int, entity: str, target: int) -> Answering:
        """The table of version `source`, and its chain to `target`; NotReadyError until loaded."""
        changes = self._tables.changes + self._maps.changes + self._views.loader.changes
        at, answering = self._answers.get((source, entity, target), (-1, None))
        if answering is None or at != changes:
            answering = self._open(source, entity, target)
            self._answers[source, entity, target] = changes, answering
        if not answering.lasting:
            self._used(self._key(entity, source))
        return answering

    def _open(self, source: int, entity: str, target: int) -> Answering:
        key = self._key(entity, source)
        opened = self.opened(key)
        view = self._view(entity, source, target)
        return Answering(
            target,
            source,
            key,
            opened,
            view,
            None if view or source == target else self._chain(source, target),
            self._views.demand(self.state.space, entity, target),
            self._fingerprint(entity, target),
            self._fingerprint(entity, source),
            key in self.lasting,
        )

    def opened(self, key: Key) -> OpenTable:
        """The open table of a key; NotReadyError until it is loaded."""
        if key not in self.lasting:
            self._used(key)
        opened = self._tables.get(key)
        if opened and not opened.intact():
            self._tables.drop([key])
            opened = None
        if opened is None:
            raise self._not_ready(self._tables, key)
        return opened

    def failed(self, key: Key) -> bool:
        """Whether the last attempt to load a table failed."""
        return self._tables.failure(key) is not None

    def recipes(self) -> Iterator[Recipe]:
        """How to make the views of open tables in older versions that were asked for or pinned."""
        pins = set(self.state.pins.values())
        for entity in self.state.entities():
            for target in {*pins, *self._views.asked(self.state.space, entity)}:
                for source in self.sources(entity, target)[:1]:
                    opened = self._tables.get(self._key(entity, source))
                    maps = [self._maps.get(key) for key in self._between(source, target)]
                    if opened and opened.copy and maps and None not in maps:
                        yield Recipe(
                            self._view_key(entity, source, target),
                            opened,
                            opened.copy,
                            self.state.versions[target].dim,
                            partial(self._chain, source, target),
                            target in pins,
                            self._views.demand(self.state.space, entity, target),
                        )

    def release(self) -> None:
        """Let go of tables and views that answered before."""
        self._answers.clear()

    def sources(self, entity: str, target: int) -> list[int]:
        """See `SpaceState.sources`."""
        found = self._sources.get((entity, target))
        if found is None:
            found = self.state.sources(entity, target) if target in self.state.versions else []
            if found:  # clients may ask for anything: what is not there is not kept
                self._sources[entity, target] = found
        return found

    def id_type(self, entity: str) -> IdType:
        """The type of the ids in the newest table of an entity; NotFoundError if it has none."""
        found = self._id_types.get(entity)
        if found is None:
            versions = self.state.versions
            newest = max((k for k, v in versions.items() if entity in v.entities), default=None)
            if newest is None:
                raise self.state.why_unreadable(entity, self.state.latest)
            found = self._id_types[entity] = versions[newest].entities[entity].id_type
        return found

    @cached_property
    def wanted(self) -> list[Key]:
        """The keys of what answers for the version in force and for all older ones."""
        tables = [self._key(entity, source) for entity, source in self.state.tables().items()]
        return [*self._map_keys(upto=max((key.version for key in tables), default=0)), *tables]

    @cached_property
    def pinned(self) -> list[Key]:
        """The keys of what answers for the versions of contracts."""
        return self._answering_keys(set(self.state.pins.values()))

    @cached_property
    def newest(self) -> list[Key]:
        """The keys of what answers for `latest`."""
        return self._answering_keys({self.state.latest})

    def _answering_keys(self, versions: set[int]) -> list[Key]:
        keys = []
        for version in versions:
            for entity in self.state.entities():
                for source in self.sources(entity, version)[:1]:
                    keys += [*self._map_keys(upto=source), self._key(entity, source)]
        return list(dict.fromkeys(keys))

    @cached_property
    def lasting(self) -> frozenset[Key]:
        """The keys of what answers for the version in force and for those of contracts."""
        return frozenset([*self.wanted, *self.pinned])

    def want(self, keys: list[Key], *, now: bool = False) -> None:
        """Load items in the background."""
        for key in keys:
            (self._tables if key.entity else self._maps).want(key, now=now)

    def lacking(self) -> dict[Key, str | None]:
        """What is wanted and not loaded, and why loading it failed; None while it is loading."""
        lacking: dict[Key, str | None] = {}
        state = self.state
        if state.in_force not in state.versions:
            why = state.faults.get(state.in_force, "it is not published any more.")
            lacking[Key(state.space, "", state.in_force, "")] = (
                f"version {state.in_force}, which is in force, can't be read: {why}"
            )
        return lacking | self._not_loaded(self.wanted)

    def loading(self, keys: list[Key]) -> dict[Key, None]:
        """Which of the items are being loaded for the first time."""
        return {key: None for key, failure in self._not_loaded(keys).items() if failure is None}

    def _not_loaded(self, keys: list[Key]) -> dict[Key, str | None]:
        """Items that are not loaded, and why; None while they are being loaded."""
        found: dict[Key, str | None] = {}
        for key in keys:
            loader: Loader[Key, OpenTable] | Loader[Key, BackwardMap]
            loader = self._tables if key.entity else self._maps
            if loader.get(key) is None:
                failure = loader.failure(key)
                found[key] = failure.reason if failure else None
        return found

    def _fingerprint(self, entity: str, version: int) -> str:
        if (entity, version) not in self._fingerprints:
            self._fingerprints[entity, version] = self.state.fingerprint(entity, version)
        return self._fingerprints[entity, version]

    def _chain(self, source: int, target: int) -> BackwardMap:
        if (source, target) not in self._chains:
            maps = []
            for key in self._between(source, target):
                loaded = self._maps.get(key)
                if loaded is None:
                    raise self._not_ready(self._maps, key)
                maps.append(loaded)
            self._chains[source, target] = compose(maps)
        return self._chains[source, target]

    def _view(self, entity: str, source: int, target: int) -> View | None:
        if source == target:
            return None
        key = self._view_key(entity, source, target)
        view = self._views.loader.get(key)
        if view and not view.intact():
            self._views.loader.drop([key])
        return view if view and view.vectors is not None and view.intact() else None

    def _view_key(self, entity: str, source: int, target: int) -> ViewKey:
        hashes = [self.state.versions[k].manifest_sha256 for k in range(target, source)]
        chain = hashlib.sha256("".join(hashes).encode()).hexdigest()
        return ViewKey(self._key(entity, source), target, chain)

    def _between(self, source: int, target: int) -> list[Key]:
        """The keys of the maps from one version to another, oldest first."""
        return [self._key("", k) for k in range(target + 1, source + 1)]

    def _not_ready(
        self, loader: Loader[Key, OpenTable] | Loader[Key, BackwardMap], key: Key
    ) -> NotReadyError:
        loader.want(key)
        failure = loader.failure(key)
        if failure:
            return NotReadyError(
                f"{key} can't be loaded: {failure.reason}", retry_after=max(failure.seconds, 1.0)
            )
        return NotReadyError(
            f"{key} is being copied. Repeat the request.", retry_after=_COPYING_SECONDS
        )

    def _loading(self, entity: str, source: int, target: int) -> bool:
        """Whether a table, or a map of its chain, is still being loaded for the first time."""
        return self._tables.failure(self._key(entity, source)) is None and all(
            self._maps.failure(key) is None for key in self._between(source, target)
        )

    def _map_keys(self, *, upto: int) -> list[Key]:
        """The keys of all backward maps up to a version."""
        versions = self.state.versions.items()
        return [self._key("", k) for k, each in versions if each.has_map and k <= upto]

    def _key(self, entity: str, version: int) -> Key:
        sha256 = self.state.versions[version].manifest_sha256
        return Key(self.state.space, entity, version, sha256)
