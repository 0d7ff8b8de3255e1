"""The JSON description of a space, as the service sends it and the client returns it."""

from typing import Literal

from typing_extensions import TypedDict  # of `typing` only from Python 3.12: pydantic reads it


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


class SpaceDescription(TypedDict):
    """One space."""

    space: str
    latest: int  # newest published version
    in_force: int  # version of the alias `prod`, or the latest where there is none
    aliases: dict[str, int]
    versions: list[VersionDescription]
    entities: dict[str, EntityDescription]
