"""A space at one moment, up to the version in force: manifests, maps, a table per entity."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import pyarrow as pa

from backstay.compat.maps import BackwardMap, compose
from backstay.errors import MissingMapError, NotFoundError
from backstay.registry.aliases import LATEST, PROD, aliases
from backstay.registry.contracts import contracts
from backstay.registry.manifest import Manifest
from backstay.registry.store import Space
from backstay.serving.description import SpaceDescription
from backstay.serving.mapped import MappedTable, open_cached


@dataclass(frozen=True)
class ServedSpace:
    """A snapshot of one space. It never changes; a refresh makes a new one."""

    name: str
    manifests: dict[int, Manifest]  # ascending
    maps: dict[int, BackwardMap]  # k -> B_k, for each version that has one
    tables: dict[str, tuple[int, MappedTable]]  # entity -> version of its newest table, the table
    aliases: dict[str, int]
    pins: dict[str, int]  # consumer -> version that its contract names
    _chains: dict[tuple[int, int], BackwardMap] = field(default_factory=dict)  # composed when used

    @classmethod
    def read(cls, space: Space, *, cache: Path, known: Self | None = None) -> Self | None:
        """Read a space up to the version of its alias `prod`, or its latest where it has none.

        Copies new tables into the folder `cache`. Returns `known` if nothing has changed since, and
        None if the space has no version.
        """
        published = space.versions()
        if not published:
            return None
        in_force = space.resolve()
        versions = [version for version in published if version <= in_force]
        newest = space.manifest(versions[-1])
        named = aliases(space)
        pins = {contract.name: contract.version for contract in contracts(space)}
        if known and versions == list(known.manifests) and newest == known.manifests[versions[-1]]:
            same = (named, pins) == (known.aliases, known.pins)
            return known if same else replace(known, aliases=named, pins=pins)
        manifests = {k: space.manifest(k) for k in versions[:-1]} | {versions[-1]: newest}
        owners = {
            entity: k
            for k in versions
            for entity in manifests[k].entities
            if k == versions[-1] or not space.retired(k)
        }
        tables = {
            entity: (
                k,
                open_cached(
                    space.table(k, entity),
                    folder=cache / space.name / entity,
                    version=k,
                    manifest_hash=manifests[k].sha256,
                ),
            )
            for entity, k in sorted(owners.items())
        }
        return cls(space.name, manifests, _maps(space, upto=versions[-1]), tables, named, pins)

    @property
    def latest(self) -> int:
        """The newest version that is served."""
        return max(self.manifests)

    def resolve(self, version: int | str | None, *, consumer: str | None) -> int:
        """The number of a version; see `Lookup.resolve`."""
        if version is None:
            return self.pins.get(consumer or "", self.aliases.get(PROD, self.latest))
        if version == LATEST:
            return self.latest
        if isinstance(version, int) or version.isdecimal():
            return int(version)
        if version not in self.aliases:
            raise NotFoundError(
                f"space {self.name!r} has no alias {version!r}; it has "
                f"{', '.join(sorted(self.aliases)) or 'none'}. Ask for one of those, for a number "
                "or for `latest`."
            )
        return self.aliases[version]

    def chain(self, source: int, target: int) -> BackwardMap:
        """The composed map from version `source` to `target`; MissingMapError if it is broken."""
        if (source, target) not in self._chains:
            steps = range(target + 1, source + 1)
            for k in steps:
                if k not in self.maps:
                    raise MissingMapError(
                        f"version {target} can't be read from version {source}: version {k} "
                        f"has no backward map. Ask for a version from {k} to {source}, or publish "
                        "a version trained with maps."
                    )
            self._chains[source, target] = compose([self.maps[k] for k in steps])
        return self._chains[source, target]

    def describe(self) -> SpaceDescription:
        """Versions, and the versions that each entity can be read in."""
        return {
            "space": self.name,
            "latest": self.latest,
            "versions": [
                {
                    "version": k,
                    "dim": manifest.dim,
                    "method": manifest.method,
                    "created": manifest.created,
                    "entities": {name: entry.rows for name, entry in manifest.entities.items()},
                }
                for k, manifest in self.manifests.items()
            ],
            "entities": {
                entity: {
                    "rows": len(table.rows),
                    "id_type": "int64" if table.sorted_ids.type == pa.int64() else "string",
                    "source_version": source,
                    "versions": self._reachable(source),
                }
                for entity, (source, table) in self.tables.items()
            },
        }

    def _reachable(self, source: int) -> list[int]:
        """The versions that a table of version `source` can be read in, ascending."""
        oldest = source
        while oldest in self.maps:
            oldest -= 1
        return list(range(oldest, source + 1))


def _maps(space: Space, *, upto: int) -> dict[int, BackwardMap]:
    maps = {}
    for k in range(1, upto + 1):
        try:
            maps[k] = space.backward_map(k)
        except NotFoundError:  # retired, or published without a map: older versions are unreachable
            continue
    return maps
