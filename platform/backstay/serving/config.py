"""What can be set about the service."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from backstay.errors import UsageError
from backstay.serving import wire

MAX_IDS = 10_000
"""Default for the most ids in one request."""


def check_max_ids(max_ids: int) -> int:
    """Refuse a limit that an answer's headers can't keep up with."""
    if not 1 <= max_ids <= wire.MAX_IDS:
        raise UsageError(f"max_ids must be 1 to {wire.MAX_IDS}; found {max_ids}.")
    return max_ids


def default_cache() -> str:
    """Where tables are copied to when nobody says: under $XDG_CACHE_HOME, or ~/.cache."""
    return str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "backstay")


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """The deployment's `user_config`. It can be changed while the service runs."""

    registry: str  # path or URL of the registry's root
    cache: str | None = None  # local folder for copies of the newest tables; see default_cache
    refresh_seconds: float = 5.0  # how often to look for new versions
    max_ids: int = MAX_IDS  # most ids in one request

    def __post_init__(self) -> None:
        if self.refresh_seconds <= 0:
            raise UsageError(f"refresh_seconds must be above 0; found {self.refresh_seconds}.")
        check_max_ids(self.max_ids)

    @classmethod
    def parse(cls, config: dict[str, Any]) -> Self:
        """Out of YAML, or the strings of a command line; UsageError says what can't be meant."""
        known = {field.name for field in fields(cls)}
        if set(config) - known or "registry" not in config:
            raise UsageError(
                f"user_config takes {sorted(known)}, of which `registry` is needed; "
                f"found {sorted(config)}."
            )
        try:
            numbers = {
                name: type_(config[name])
                for name, type_ in (("refresh_seconds", float), ("max_ids", int))
                if name in config
            }
        except (TypeError, ValueError) as error:
            raise UsageError(f"refresh_seconds and max_ids are numbers: {error}.") from error
        return cls(**{**config, **numbers})
