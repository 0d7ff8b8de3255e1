"""The JSON description of a space, as the service sends it and the client returns it."""

from typing import TYPE_CHECKING, Literal

from typing_extensions import TypedDict  # of `typing` only from Python 3.12: pydantic reads it

if TYPE_CHECKING:
    from backstay.serving.state import SpaceState


class VersionDescription(TypedDict):
    """One published version."""

    version: int
    dim: int
    method: str
    created: str  # ISO 8601, UTC
    entities: dict[str, int]  # entity -> rows when it was published


class EntityDescription(TypedDict):
    """One entity, and the versions that it can be read in."""

    rows: int
    id_type: Literal["int64", "string"]
    source_version: int  # version of the table that answers by default
    versions: list[int]  # ascending
    fingerprints: dict[str, str]  # of the vectors of each of these versions


class SpaceDescription(TypedDict):
    """One space."""

    space: str
    latest: int  # newest published version
    in_force: int  # version of the alias `prod`, or the latest where there is none
    aliases: dict[str, int]
    versions: list[VersionDescription]
    entities: dict[str, EntityDescription]


def describe(state: "SpaceState") -> SpaceDescription:
    """Versions, aliases, and the versions that each entity can be read in."""
    return {
        "space": state.space,
        "latest": state.latest,
        "in_force": state.in_force,
        "aliases": state.aliases,
        "versions": [
            {
                "version": k,
                "dim": version.dim,
                "method": version.method,
                "created": version.created,
                "entities": {name: entry.rows for name, entry in version.entities.items()},
            }
            for k, version in state.versions.items()
        ],
        "entities": {
            entity: _entity(state, entity, source) for entity, source in state.tables().items()
        },
    }


def _entity(state: "SpaceState", entity: str, source: int) -> EntityDescription:
    stored = state.versions[source].entities[entity]
    versions = state.readable(entity)
    return {
        "rows": stored.rows,
        "id_type": stored.id_type,
        "source_version": source,
        "versions": versions,
        "fingerprints": {str(k): state.fingerprint(entity, k) for k in versions},
    }
