"""Settings of the service."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from backstay.errors import UsageError
from backstay.serving import wire

MAX_IDS = 10_000
"""Default for the most ids in one request."""

MaxIds = Annotated[int, Field(ge=1, le=wire.MAX_IDS)]


def check_max_ids(max_ids: int) -> int:
    """Raise UsageError for a limit whose answers would need headers that are too long."""
    try:
        return TypeAdapter(MaxIds).validate_python(max_ids)
    except ValidationError as error:
        raise _usage_error(error, name="max_ids") from None


def default_cache() -> str:
    """The default folder for copies of tables: $XDG_CACHE_HOME/backstay or ~/.cache/backstay."""
    return str(user_cache_path("backstay"))


def cache_folder(cache: str | Path, registry: str) -> Path:
    """The folder in `cache` for the tables of one registry, a path or URL."""
    return Path(cache) / hashlib.sha256(registry.encode()).hexdigest()[:16]


class ServiceConfig(BaseModel):
    """The deployment's `user_config`. It can be changed while the service runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registry: str  # path or URL of the registry's root
    cache: str | None = None  # local folder for copies of the newest tables; see default_cache
    refresh_seconds: float = Field(5.0, gt=0, allow_inf_nan=False)  # between two checks
    max_ids: MaxIds = MAX_IDS  # most ids in one request

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Self:
        """Read YAML values, or the strings of a command line; raise UsageError if invalid."""
        try:
            return cls.model_validate(config)
        except ValidationError as error:
            raise _usage_error(error, name="user_config") from None


def _usage_error(error: ValidationError, *, name: str) -> UsageError:
    """The first field at fault: what was expected, and what was found."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or name
    expected = {
        "missing": "must be given",
        "extra_forbidden": f"must be one of {', '.join(ServiceConfig.model_fields)}",
    }.get(first["type"], first["msg"].replace("Input should", "must"))
    return UsageError(f"{field} {expected}; found {first['input']!r}.")
