"""What a space serves: read from the registry in one place, and followed by all replicas.

A `SpaceState` holds everything that decides an answer: the published versions, the aliases, the
versions that contracts pin, and what is retired. Replicas with one state give the same answers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from backstay.errors import (
    BackstayError,
    MissingMapError,
    NotFoundError,
    NotReadyError,
    RegistryError,
)
from backstay.registry.aliases import LATEST, PROD, aliases
from backstay.registry.contracts import consumers, contract
from backstay.registry.fingerprint import build_id, fingerprint
from backstay.registry.manifest import BACKWARD, EntityEntry, Manifest
from backstay.registry.store import Space

_LISTED = 10  # most names in a message
_DIGITS = 18  # most digits of a version's number

UNREADABLE_SECONDS = 60.0
"""When a request may be repeated that needs something damaged in the registry."""


@dataclass(frozen=True, kw_only=True)
class VersionState:
    """One published version."""

    version: int
    dim: int
    method: str
    created: str  # ISO 8601, UTC
    manifest_sha256: str
    build: str  # see registry.fingerprint
    entities: dict[str, EntityEntry]  # of its tables, also if they are retired
    has_map: bool  # whether it has a backward map
    retired: bool

    @classmethod
    def of(cls, manifest: Manifest, *, retired: bool) -> Self:
        """The state of the version that a manifest describes."""
        return cls(
            version=manifest.version,
            dim=manifest.dim,
            method=manifest.method,
            created=manifest.created,
            manifest_sha256=manifest.sha256,
            build=manifest.build
            or build_id(
                manifest.space, manifest.version, manifest.run_id, manifest.parent_manifest_sha256
            ),
            entities=manifest.entities,
            has_map=BACKWARD in manifest.files,
            retired=retired,
        )

    def has_table(self, entity: str) -> bool:
        """Whether there is a table of `entity` to read."""
        return entity in self.entities and not self.retired


@dataclass(frozen=True, kw_only=True)
class SpaceState:
    """One space at one moment. It never changes; whatever changes in the registry makes a new one.

    The version in force is that of the alias `prod`, or the latest where there is no `prod`.
    """

    space: str
    generation: int = 0  # grows with each change; the time of reading in milliseconds since 1970
    versions: dict[int, VersionState]  # ascending; without those that can't be read
    faults: dict[int, str] = field(default_factory=dict)  # versions that can't be read, and why
    aliases: dict[str, int] = field(default_factory=dict)
    pins: dict[str, int] = field(default_factory=dict)  # consumer -> version of its contract
    broken_contracts: dict[str, str] = field(default_factory=dict)  # consumer -> why

    def same(self, other: "SpaceState") -> bool:
        """Whether two states differ in nothing but their generation."""
        return replace(other, generation=self.generation) == self

    @property
    def latest(self) -> int:
        """The newest published version."""
        return max([*self.versions, *self.faults])

    @property
    def in_force(self) -> int:
        """The version whose table answers for all versions up to it."""
        return self.aliases.get(PROD, self.latest)

    def resolve(self, version: int | str | None = None, *, consumer: str | None = None) -> int:
        """The number of a version; see `Lookup.resolve`."""
        if version is None:
            if consumer in self.broken_contracts:
                raise NotReadyError(
                    f"the contract of consumer {consumer!r} on space {self.space!r} can't be read: "
                    f"{self.broken_contracts[consumer]} Until then, name a version.",
                    retry_after=UNREADABLE_SECONDS,
                )
            return self.pins.get(consumer or "", self.in_force)
        if version == LATEST:
            return self.latest
        if isinstance(version, int):
            return version
        if version.isascii() and version.isdecimal() and len(version) <= _DIGITS:
            return int(version)
        if version not in self.aliases:
            raise NotFoundError(
                f"space {self.space!r} has no alias {version!r:.60}; it has "
                f"{', '.join(sorted(self.aliases)) or 'none'}. Ask for one of those, for a number "
                "or for `latest`."
            )
        return self.aliases[version]

    def entities(self) -> list[str]:
        """Every entity of any version, sorted."""
        return sorted({entity for each in self.versions.values() for entity in each.entities})

    def sources(self, entity: str, target: int) -> list[int]:
        """The versions whose table of `entity` can be read in version `target`; the best first.

        First those up to the version in force, newest first; then newer ones, oldest first.
        """
        reaching = []
        for k in range(target, self.latest + 1):
            if k > target and not (k in self.versions and self.versions[k].has_map):
                break
            if k in self.versions and self.versions[k].has_table(entity):
                reaching.append(k)
        in_force = self.in_force
        older = [k for k in reaching if k <= in_force]
        return older[::-1] + [k for k in reaching if k > in_force]

    def tables(self) -> dict[str, int]:
        """Of each entity that the version in force has, or an older one: the version of its table.

        Together, these tables answer for the version in force.
        """
        chosen = {}
        for entity in self.entities():
            of = [k for k, each in self.versions.items() if entity in each.entities]
            newest = max((k for k in of if k <= self.in_force), default=None)
            sources = [] if newest is None else self.sources(entity, newest)
            if sources:
                chosen[entity] = sources[0]
        return chosen

    def readable(self, entity: str) -> list[int]:
        """The versions that `entity` can be read in, ascending."""
        return [k for k in self.versions if self.sources(entity, k)]

    def fingerprint(self, entity: str, version: int) -> str:
        """The fingerprint of vectors of `entity` in the space of `version`."""
        found = self.versions[version]
        return fingerprint(self.space, entity, version, found.dim, found.build)

    def _fault(self, version: int) -> NotReadyError:
        return NotReadyError(
            f"version {version} of space {self.space!r} can't be read: {self.faults[version]}",
            retry_after=UNREADABLE_SECONDS,
        )

    def why_unreadable(self, entity: str, target: int) -> Exception:
        """The error for a version in which no table of `entity` can be read."""
        if target in self.faults:
            return self._fault(target)
        if entity not in self.entities():
            return NotFoundError(
                f"space {self.space!r} has no entity {entity!r}; it has {listed(self.entities())}."
            )
        readable = self.readable(entity)
        advice = "Ask for one of those" if readable else "Publish a newer version"
        newest = max((k for k in self.versions if self.versions[k].has_table(entity)), default=-1)
        if target not in self.versions or newest < target:
            return NotFoundError(
                f"{entity!r} of space {self.space!r} can be read in versions {_ranges(readable)}; "
                f"found {target}. {advice}."
            )
        broken = next(
            k for k in range(target + 1, newest + 1)
            if k not in self.versions or not self.versions[k].has_map
        )  # fmt: skip
        if broken in self.faults:
            return self._fault(broken)
        return MissingMapError(
            f"version {target} of {entity!r} can't be read out of a newer table, because version "
            f"{broken} has no backward map; versions {_ranges(readable)} can. {advice}, or publish "
            "a version trained with maps."
        )


def read_state(space: Space) -> SpaceState | None:
    """Read what a space holds; None if it has no published version.

    A version or contract that can't be read is noted in the state. Raises BackstayError if the
    aliases can't be read, and OSError if the registry can't.
    """
    versions, faults = {}, {}
    for k in space.versions():
        try:
            retired = space.retired(k) is not None
            versions[k] = VersionState.of(space.manifest(k), retired=retired)
        except RegistryError as error:
            faults[k] = str(error)
    if not versions and not faults:
        return None
    pins, broken = {}, {}
    for name in consumers(space):
        try:
            pins[name] = contract(space, name).version
        except NotFoundError:
            continue  # its contract has ended
        except BackstayError as error:
            broken[name] = str(error)
    return SpaceState(
        space=space.name,
        versions=versions,
        faults=faults,
        aliases=aliases(space),
        pins=pins,
        broken_contracts=broken,
    )


def renumbered(state: SpaceState, known: Mapping[str, SpaceState], *, now: float) -> SpaceState:
    """`state` with a generation after that of the known state; the known state if it is the same.

    `now`: seconds since 1970.
    """
    before = known.get(state.space)
    if before and before.same(state):
        return before
    return replace(state, generation=max(int(now * 1000), before.generation + 1 if before else 0))


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers for a message, such as `0 to 2, 4`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    texts = [str(r[0]) if len(r) == 1 else f"{r[0]} to {r[-1]}" for r in ranges]
    return ", ".join(texts) or "none"


def listed(values: Iterable[str] | Iterable[int]) -> str:
    """Names or numbers for a message; the first ten."""
    shown = list(map(repr, sorted(values)))
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    return (", ".join(shown[:_LISTED]) or "none") + more
