"""Settings of the service."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from backstay.errors import UsageError
from backstay.serving import wire
from backstay.serving.access import Auth

MAX_IDS = 10_000
"""Default for the most ids in one request."""

MAX_SHARDS = 64

MaxIds = Annotated[int, Field(ge=1, le=wire.MAX_IDS)]

_ON_OFF: dict[object, Auth] = {True: "required", False: "off"}  # YAML reads on and off as these


def check_max_ids(max_ids: int) -> int:
    """Raise UsageError for a limit whose answers would need headers that are too long."""
    try:
        return TypeAdapter(MaxIds).validate_python(max_ids)
    except ValidationError as error:
        raise _usage_error(error, name="max_ids") from None


class ServiceConfig(BaseModel):
    """The deployment's `user_config`. It can be changed while the service runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registry: str  # path or URL of the registry's root
    cache: str | None = None  # local folder for copies of the newest tables; see default_cache
    spaces: tuple[str, ...] | None = None  # the spaces to serve; None: all
    refresh_seconds: float = Field(5.0, gt=0, allow_inf_nan=False)  # between two checks
    max_ids: MaxIds = MAX_IDS  # most ids in one request
    access_log: str = Field("off", min_length=1)  # a file, `-` for standard output, or `off`
    # Whether requests need an access token; auto: once a token was made in the registry.
    auth: Annotated[
        Auth, BeforeValidator(lambda value: _ON_OFF[value] if isinstance(value, bool) else value)
    ] = "required"
    views_max_bytes: int | None = Field(None, ge=0)  # of tables converted ahead; see `Views`
    shards: int = Field(1, ge=1, le=MAX_SHARDS)  # parts of the tables; see `Router`

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Self:
        """Read YAML values, or the strings of a command line; raise UsageError if invalid."""
        try:
            parsed = cls.model_validate(config)
        except ValidationError as error:
            raise _usage_error(error, name="user_config") from None
        if parsed.shards > 1 and parsed.max_ids > wire.MAX_IDS_SHARDED:
            raise UsageError(
                f"max_ids must be at most {wire.MAX_IDS_SHARDED} in a service with shards; found "
                f"{parsed.max_ids}."
            )
        if parsed.shards > 1 and parsed.views_max_bytes:
            raise UsageError(
                "views_max_bytes must be 0 or left out in a service with shards, which computes "
                f"each product; found {parsed.views_max_bytes}."
            )
        return parsed


def _usage_error(error: ValidationError, *, name: str) -> UsageError:
    """The first field at fault: what was expected, and what was found."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or name
    expected = {
        "missing": "must be given",
        "extra_forbidden": f"must be one of {', '.join(ServiceConfig.model_fields)}",
    }.get(first["type"], first["msg"].replace("Input should", "must"))
    return UsageError(f"{field} {expected}; found {first['input']!r}.")
