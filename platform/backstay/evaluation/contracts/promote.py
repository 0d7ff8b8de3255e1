"""Moving an alias to a version only if the consumers' contracts allow it."""

from dataclasses import asdict

from backstay.errors import RegistryError
from backstay.evaluation.contracts.check import run_contracts
from backstay.evaluation.contracts.vectors import PublishedVectors
from backstay.registry import aliases
from backstay.registry.aliases import AliasMove
from backstay.registry.store import Space


def promote_checked(
    space: Space, version: int, *, alias: str, why: str, force: bool = False
) -> AliasMove:
    """Run every active contract on a published version, then point the alias to it.

    The verdicts are part of the alias's record. RegistryError where a contract refuses the version,
    unless `force` is set.
    """
    verdicts = run_contracts(space, PublishedVectors(space, version))
    broken = [verdict for verdict in verdicts if verdict.verdict == "refuse"]
    if broken and not force:
        reasons = "; ".join(f"{each.consumer}: {each.reason.rstrip('.')}" for each in broken)
        raise RegistryError(
            f"{alias} of {space.name} can't lead to version {version}, which breaks the contracts "
            f"of {len(broken)} consumers ({reasons}). Publish a better version, or end the "
            "contracts with `backstay consumers remove`; --force moves the alias all the same."
        )
    return aliases.promote(
        space, version, alias=alias, why=why, checks=[asdict(verdict) for verdict in verdicts]
    )
