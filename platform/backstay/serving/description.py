"""The JSON description of a space, as the service sends it and the client returns it."""

from typing import Literal, TypedDict


class VersionDescription(TypedDict):
    """One published version."""

    version: int
    dim: int
    method: str
    created: str  # ISO 8601, UTC
    entities: dict[str, int]  # entity -> rows when it was published


class EntityDescription(TypedDict):
    """One entity, and the versions that its newest table can be read in."""

    rows: int
    id_type: Literal["int64", "string"]
    source_version: int  # version of the newest table
    versions: list[int]  # ascending


class SpaceDescription(TypedDict):
    """One space."""

    space: str
    latest: int
    versions: list[VersionDescription]
    entities: dict[str, EntityDescription]
