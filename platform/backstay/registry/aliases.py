"""Aliases: names such as `prod` that point to a version, and the record of every move.

    <root>/<space>/aliases/<name>/<n>.json      the highest n is in force

An alias is the only thing in a registry that moves. `latest` is no alias: it is always the highest
version.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from backstay.errors import CorruptError, NotFoundError, RegistryError, UsageError
from backstay.registry.manifest import check_name, is_safe_name, now
from backstay.registry.records import Records, author
from backstay.registry.space_files import SpaceFiles
from backstay.storage.documents import JsonObject

_log = logging.getLogger("backstay.registry")

PROD, LATEST = "prod", "latest"


@dataclass(frozen=True, kw_only=True)
class AliasMove:
    """One move of an alias."""

    alias: str
    n: int
    action: Literal["promote", "rollback"]
    before: Annotated[int | None, Field(alias="from")]  # the version it pointed to
    to: int
    who: str
    when: str  # UTC, ISO 8601
    why: str
    checks: tuple[JsonObject, ...]  # verdicts of consumer contracts on version `to`


_move: TypeAdapter[AliasMove] = TypeAdapter(AliasMove)


def aliases(space: SpaceFiles) -> dict[str, int]:
    """Every alias of a space and the version it points to."""
    return {name: moves[-1].to for name, moves in _histories(space).items()}


def trails(space: SpaceFiles) -> dict[str, list[int]]:
    """Every alias of a space and its trail, see `trail_of`."""
    return {name: trail_of(moves) for name, moves in _histories(space).items()}


def _histories(space: SpaceFiles) -> dict[str, list[AliasMove]]:
    """Every alias of a space and its moves, of which there is at least one."""
    names = [name for name in space.files.folders(f"{space.name}/aliases") if is_safe_name(name)]
    found = {name: history(space, name) for name in names}
    return {name: moves for name, moves in found.items() if moves}


def history(space: SpaceFiles, alias: str) -> list[AliasMove]:
    """The moves of an alias, oldest first; empty where there is no such alias."""
    moves = _records(space, alias).history()
    for number, move in enumerate(moves):
        if (move.alias, move.n) != (alias, number):
            raise CorruptError(
                f"move {number} of the alias {alias} of {space.name} is missing, or the file holds "
                f"move {move.n} of {move.alias}. Restore it from a copy."
            )
    return moves


def resolve(space: SpaceFiles, name: str | int | None = None) -> int:
    """The version that a number, an alias or `latest` means; without a name, `prod` or `latest`.

    Raises:
        NotFoundError: There is no such version or alias.
    """
    if name is None:
        moves = history(space, PROD)
        return moves[-1].to if moves else space.latest()
    if name == LATEST:
        return space.latest()
    if isinstance(name, int) or name.isdecimal():
        space.manifest(int(name))
        return int(name)
    moves = history(space, check_name(name, what="an alias"))
    if not moves:
        known = ", ".join(aliases(space)) or "none"
        raise NotFoundError(
            f"{space.name} has no alias {name} (aliases: {known}). Make it with `backstay promote "
            f"{space.name} VERSION --alias {name}`, or name a version or `latest`."
        )
    return moves[-1].to


def promote(
    space: SpaceFiles,
    version: int,
    *,
    alias: str = PROD,
    why: str = "",
    who: str | None = None,
    checks: Sequence[JsonObject] = (),
) -> AliasMove:
    """Point an alias to a version. Where it points there already, nothing is written.

    Args:
        space: The space of the alias.
        version: A published version.
        alias: The alias; it is made if there is none.
        why: The reason, for the record.
        who: Who moves it; by default the user and host of this process.
        checks: Verdicts of consumer contracts, for the record.

    Raises:
        NotFoundError: There is no such version.
        RegistryError: Someone else moved the alias at the same moment.
    """
    check_alias(alias)
    space.manifest(version)
    moves = history(space, alias)
    if moves and moves[-1].to == version:
        return moves[-1]
    return _move_to(
        space, moves, version, alias=alias, action="promote", why=why, who=who, checks=checks
    )


def rollback(
    space: SpaceFiles, *, alias: str = PROD, why: str = "", who: str | None = None
) -> AliasMove:
    """Point an alias to the version that it pointed to before; repeated, to the one before that.

    Raises:
        NotFoundError: There is no such alias, or the version is not there any more.
        RegistryError: It has pointed to one version only.
    """
    moves = history(space, check_alias(alias))
    if not moves:
        resolve(space, alias)
    trail = trail_of(moves)
    if len(trail) < 2:  # noqa: PLR2004
        raise RegistryError(
            f"the alias {alias} of {space.name} can't be rolled back: it has pointed to version "
            f"{trail[-1]} only. Move it with `backstay promote {space.name} VERSION --alias "
            f"{alias}`."
        )
    space.manifest(trail[-2])
    return _move_to(
        space, moves, trail[-2], alias=alias, action="rollback", why=why, who=who, checks=()
    )


def trail_of(moves: Sequence[AliasMove]) -> list[int]:
    """The versions that rollbacks walk back through; the last one is in force."""
    trail: list[int] = []
    for move in moves:
        if move.action == "rollback":
            trail.pop()
        else:
            trail.append(move.to)
    return trail


def _move_to(
    space: SpaceFiles,
    moves: Sequence[AliasMove],
    version: int,
    *,
    alias: str,
    action: Literal["promote", "rollback"],
    why: str,
    who: str | None,
    checks: Sequence[JsonObject],
) -> AliasMove:
    before = moves[-1].to if moves else None
    record = {
        "alias": alias,
        "n": len(moves),
        "action": action,
        "from": before,
        "to": version,
        "who": who or author(),
        "when": now(),
        "why": why,
        "checks": list(checks),
    }
    if not _records(space, alias).append(len(moves), record):
        moved = history(space, alias)[-1]
        raise RegistryError(
            f"{moved.who} has just moved the alias {alias} of {space.name} to version {moved.to}. "
            "Look at it with `backstay versions`, and repeat the command if it still holds."
        )
    space.renew_markers()
    earlier = "none" if before is None else f"version {before}"
    _log.info("%s of %s: %s → version %d (%s)", alias, space.name, earlier, version, action)
    return history(space, alias)[-1]


def _records(space: SpaceFiles, alias: str) -> Records[AliasMove]:
    return Records(space.files, f"{space.name}/aliases/{alias}", _move)


def check_alias(alias: str) -> str:
    """Refuse a name that can't be an alias."""
    if alias == LATEST or alias.isdecimal():
        raise UsageError(
            f"alias must be a name such as prod; found {alias}, which means a version by itself."
        )
    return check_name(alias, what="an alias")
