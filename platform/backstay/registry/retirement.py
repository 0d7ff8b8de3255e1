"""Retiring a version, which removes its tables and model, and the check of what it would lose."""

import logging
from collections.abc import Callable
from dataclasses import asdict, replace

from backstay.errors import CorruptError, NotFoundError, RegistryError
from backstay.registry.aliases import PROD, aliases, trails
from backstay.registry.contracts import contracts
from backstay.registry.manifest import MODEL, RETIRED, now
from backstay.registry.store import Retirement, Space
from backstay.registry.stored import deltas
from backstay.registry.tables import EmbeddingTable
from backstay.storage.documents import seal
from backstay.storage.keys import missing_ids

_log = logging.getLogger("backstay.registry")


def retire(
    space: Space,
    version: int,
    *,
    reason: str = "",
    force: bool = False,
    confirm: Callable[[int], None] = lambda _size: None,
) -> Retirement:
    """Remove a version's tables and model; return what this call removed.

    Its manifest, metrics and backward map stay: it becomes a virtual version, read out of the
    latest table, and chains through it still compose. If it is killed half-way, repeat it; a
    version that is retired and whose files are gone needs no write.
    `confirm` is called with the bytes to remove, after all checks; if it raises, nothing is
    removed.

    Raises:
        RegistryError: It is the latest version, or its tables answer for the version that an alias
            points to, or tables of newer versions are stored as changes to its tables; or the next
            rollback of an alias leads to it, or some of its ids could not be read any more (`force`
            retires it anyway, unless a consumer reads them).
    """
    manifest = space.manifest(version)
    name = f"{space.name} version {version}"
    if version == space.latest():
        raise RegistryError(
            f"{name} can't be retired: it is the latest, and older versions are read out of its "
            "tables. Publish a newer version first."
        )
    stored = {
        file: size
        for file, size in space.files.find(space.path(version)).items()
        if _is_removed(file)
    }
    freed = sum(stored.values())
    retirement = space.retired(version)
    if retirement and not stored:
        _log.info(
            "%s was retired already, on %s; nothing is left to remove", name, retirement.retired
        )
        return replace(retirement, removed=(), freed=0)
    if retirement is None:
        _refuse_base(space, version)
        _refuse_served(space, version, force=force)
        refuse_losses(space, version, force=force)
        confirm(freed)
        retirement = Retirement(
            reason=reason,
            retired=now(),
            removed=tuple(filter(_is_removed, manifest.files)),
            freed=freed,
        )
        data = seal(asdict(retirement), what="a retirement")
        if not space.files.create(space.path(version, RETIRED), data):
            retirement = space.retired(version) or retirement
    else:  # it was killed half-way
        _log.info("%s was retired on %s; removing the rest of it", name, retirement.retired)
    space.files.remove(space.path(version, MODEL))
    space.files.remove(space.path(version, "tables"))
    space.renew_markers()
    _log.info("removed %d files of %s: %d bytes", len(stored), name, freed)
    return replace(retirement, removed=tuple(stored), freed=freed)


def _is_removed(name: str) -> bool:
    """Whether retiring a version removes this file of it."""
    return name == MODEL or name.startswith("tables/")


def _refuse_base(space: Space, version: int) -> None:
    """RegistryError where tables of newer versions are stored as changes to those of `version`."""
    depending = [
        newer
        for newer in space.versions()
        if newer > version and not space.retired(newer)
        for delta in deltas(space, space.manifest(newer)).values()
        if delta.base == version
    ]
    if depending:
        named = ", ".join(map(str, dict.fromkeys(depending)))
        commands = "; ".join(
            f"backstay compact --registry {space.uri} --space {space.name} {newer}"
            for newer in dict.fromkeys(depending)
        )
        raise RegistryError(
            f"{space.name} version {version} can't be retired: tables of version {named} are "
            f"stored as changes to its tables. Make them whole first: `{commands}`."
        )


def _refuse_served(space: Space, version: int, *, force: bool) -> None:
    """RegistryError where the version's tables answer for an alias, now or after a rollback.

    `force` accepts that they are not there after a rollback.
    """
    for alias, trail in trails(space).items():
        now_at, *earlier = reversed(trail)
        if tables := _answers(space, version, alias=alias, at=now_at):
            raise RegistryError(
                f"{space.name} version {version} can't be retired: the alias {alias} points to "
                f"version {now_at}, which is read out of {tables}. Move the alias with `backstay "
                "promote` first."
            )
        for before in earlier:
            tables = _answers(space, version, alias=alias, at=before)
            if tables and before == earlier[0] and not force:
                raise RegistryError(
                    f"{space.name} version {version} can't be retired: the next `backstay rollback "
                    f"{space.name} --alias {alias}` leads to version {before}, which is read out "
                    f"of {tables}. Promote another version to {alias} first, or give --force and "
                    "do without that rollback."
                )
            if tables:
                _log.warning(
                    "a rollback of %s to version %d will not find %s any more",
                    *(alias, before, tables),
                )


def _answers(space: Space, version: int, *, alias: str, at: int) -> str:
    """Which tables of `version` answer while an alias points to version `at`; empty: none.

    Of each entity, the newest table up to the version of `prod` answers.
    """
    if version == at:
        return f"the tables of version {version}"
    if alias != PROD or version > at:
        return ""
    newer = [k for k in space.versions() if version < k <= at and not space.retired(k)]
    covered = {entity for k in newer for entity in space.manifest(k).entities}
    found = sorted(space.manifest(version).entities.keys() - covered)
    return f"the table of {', '.join(found)} in version {version}" if found else ""


def refuse_losses(space: Space, version: int, *, force: bool) -> None:
    """RegistryError where retiring a version would make vectors unreadable.

    `force` accepts the loss, unless an alias or an active consumer reads what would be lost.
    """
    lost = losses(space, version)
    if not lost:
        return
    readers = _readers(space, version)
    if readers:
        raise RegistryError(
            f"{space.name} version {version} is still read by {', '.join(readers)}, and retiring "
            f"it would lose its vectors: {'; '.join(lost)}. Move the aliases with `backstay "
            "promote` and end the contracts with `backstay consumers remove` first."
        )
    if not force:
        raise RegistryError(
            f"retiring {space.name} version {version} would lose its vectors: {'; '.join(lost)}. "
            "Publish a newer version that keeps them, or retire it anyway with --force."
        )


def losses(space: Space, version: int) -> list[str]:
    """Why vectors of a version could not be read any more without its own tables; empty: all can.

    The vectors of an entity stay readable where a newer version has its table with every id, and
    the chain of maps leads from there to this version.
    """
    return [
        f"{entity}: {why}"
        for entity in sorted(space.manifest(version).entities)
        if (why := _loss(space, version, entity))
    ]


def _loss(space: Space, version: int, entity: str) -> str | None:
    newer = _newest_table(space, entity, above=version)
    if newer is None:
        return "no newer version has a table of it"
    try:
        space.chain(newer.version, version)
    except NotFoundError as error:
        return f"it can't be read out of version {newer.version}: {error}"
    older = space.table(version, entity)
    if older.id_type != newer.id_type:
        return f"its ids are {older.id_type}, those of version {newer.version} {newer.id_type}"
    count, examples = missing_ids(older.id_batches, newer.id_batches())
    if not count:
        return None
    shown = ", ".join(map(repr, examples))
    return f"{count} of its {older.rows} ids, such as {shown}, are not in version {newer.version}"


def _newest_table(space: Space, entity: str, *, above: int) -> EmbeddingTable | None:
    """The table out of which older versions are read."""
    for newer in reversed([v for v in space.versions() if v > above]):
        try:
            if entity in space.manifest(newer).entities and not space.retired(newer):
                return space.table(newer, entity)
        except CorruptError:
            raise
        except RegistryError:
            continue  # of a newer format
    return None


def _readers(space: Space, version: int) -> list[str]:
    """The aliases and active consumers that read `version`, or an older one out of its tables."""
    oldest = version
    while oldest:
        try:
            space.backward_map(oldest)
        except NotFoundError:
            break
        oldest -= 1
    read = range(oldest, version + 1)
    named = [f"alias {name} (version {v})" for name, v in aliases(space).items() if v in read]
    return named + [
        f"consumer {contract.name} (version {contract.version})"
        for contract in contracts(space)
        if contract.version in read
    ]
