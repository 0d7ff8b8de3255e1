"""Moving an alias to a version only if the consumers' contracts allow it."""

import logging
from dataclasses import asdict

from backstay.errors import RegistryError
from backstay.evaluation.contracts.check import run_contracts
from backstay.evaluation.contracts.vectors import PublishedVectors
from backstay.registry import aliases
from backstay.registry.aliases import AliasMove
from backstay.registry.store import Space

_log = logging.getLogger("backstay.registry")


def promote_checked(
    space: Space, version: int, *, alias: str, why: str, force: bool = False
) -> AliasMove:
    """Run every active contract on a published version, then point the alias to it.

    The verdicts are part of the alias's record. RegistryError where a contract refuses the version,
    unless `force` is set.
    """
    aliases.check_alias(alias)
    space.manifest(version)
    verdicts = run_contracts(space, PublishedVectors(space, version))
    broken = [verdict for verdict in verdicts if verdict.verdict == "refuse"]
    if broken and not force:
        reasons = "; ".join(f"{each.consumer}: {each.reason.rstrip('.')}" for each in broken)
        raise RegistryError(
            f"{alias} of {space.name} can't lead to version {version}, which breaks "
            f"{len(broken)} of {len(verdicts)} contracts ({reasons}). Publish a better version, or "
            "end the contracts with `backstay consumers remove`; --force moves the alias all the "
            "same."
        )
    return aliases.promote(
        space, version, alias=alias, why=why, checks=[asdict(verdict) for verdict in verdicts]
    )


def promote_new(space: Space, version: int, *, alias: str, why: str) -> str | None:
    """Point an alias to a version that was just published; the alias if it points there, else None.

    `alias` "none" means no alias. Nothing moves if a contract refused the version, and a retry
    doesn't move an alias that has moved on.
    """
    if alias == "none":
        return None
    moves = aliases.history(space, alias)
    if version in {move.to for move in moves}:
        return alias if moves[-1].to == version else None
    verdicts = space.verdicts(version)
    refusing = [each["consumer"] for each in verdicts if each["verdict"] == "refuse"]
    if refusing or version != space.latest():
        refused = f"the contracts of {', '.join(refusing)} refuse it"
        reason = refused if refusing else "a newer one is published"
        _log.warning("%s does not lead to version %d: %s", alias, version, reason)
        return None
    aliases.promote(space, version, alias=alias, why=why, checks=verdicts)
    return alias
