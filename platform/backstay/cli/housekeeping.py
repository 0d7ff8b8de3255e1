"""Verbs on storage: retire, gc and compact."""

import sys
from datetime import timedelta
from pathlib import Path

import click

from backstay.cli import options
from backstay.cli.versions import open_registry, open_space
from backstay.errors import RegistryError
from backstay.terminal import Command


@click.command(
    cls=Command,
    example='backstay retire --registry registry --space movies 0 --reason "no readers left"',
)
@options.space
@options.version
@click.option("--reason", default="", help="Reason to record with the version.")
@click.option(
    "--force",
    is_flag=True,
    help="Retire it even if vectors are lost, unless an alias or a consumer reads them.",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation on a terminal.")
def retire(registry: str, space: str, version: int, reason: str, force: bool, yes: bool) -> object:
    """Remove a version's tables and model. This can't be undone.

    Its vectors can still be read as a virtual version, out of the newest table. Refused where an id
    would be lost. On a terminal, it asks for confirmation first.
    """
    from backstay.registry.retirement import retire as retire_version

    def ask(size: int) -> None:
        question = (
            f"Remove the tables and the model of {space} version {version} ({size:,} bytes)? This "
            "can't be undone."
        )
        if not yes and _on_terminal() and not click.confirm(question, err=True):
            raise RegistryError(
                f"{space} version {version} is not retired: expected y, found n. Nothing is "
                "removed."
            )

    return retire_version(
        open_space(registry, space), version, reason=reason, force=force, confirm=ask
    )


def _on_terminal() -> bool:
    """Whether a person can answer a question."""
    return sys.stdin.isatty()


@click.command(cls=Command, example="backstay gc --registry registry --older-than 48 --yes")
@options.registry
@click.option(
    "--older-than",
    type=options.SECONDS,
    default=24.0,
    metavar="HOURS",
    help="Age from which what has no living owner counts as abandoned.",
)
@click.option(
    "--cache",
    type=options.FOLDER,
    help="The service's cache folder.  [default: the user's cache folder]",
)
@click.option("--yes", is_flag=True, help="Remove it. Without --yes it is only listed.")
def gc(registry: str, older_than: float, cache: Path | None, yes: bool) -> object:
    """List or remove what killed and finished runs left behind.

    Staged files, temporary files, checkpoints of runs, and cached tables of spaces that are gone. A
    file of a published version is never removed.
    """
    from backstay.registry.garbage import find_garbage, remove_garbage
    from backstay.serving.cache import cache_folder, default_cache

    opened = open_registry(registry)
    found = find_garbage(
        opened,
        older_than=timedelta(hours=older_than),
        cache=cache_folder(cache or default_cache(), opened.uri),
    )
    freed = remove_garbage(opened, found) if yes else 0
    return {
        "found": found,
        "bytes": sum(garbage.size for garbage in found),
        "removed": yes,
        "freed": freed,
        "next": "nothing to remove" if yes or not found else "repeat the command with --yes",
    }


@click.command(cls=Command, example="backstay compact --registry registry --space movies 3")
@options.space
@click.argument("version", metavar="[VERSION]", required=False, type=options.VERSION)
@click.option("--dry-run", is_flag=True, help="List what would be written; write nothing.")
def compact(registry: str, space: str, version: int | None, dry_run: bool) -> object:
    """Write tables that are stored as a delta as whole tables.

    Of one version, or of all. Rows, their order and the manifest stay the same. Afterwards the
    version needs its base no more, so that the base can be retired.
    """
    from backstay.registry.compaction import compact as compact_version

    opened = open_space(registry, space)
    opened.latest()
    chosen = opened.versions() if version is None else [version]
    if version is None:
        chosen = [number for number in chosen if not opened.retired(number)]
    found = [
        table for number in chosen for table in compact_version(opened, number, dry_run=dry_run)
    ]
    return {"space": space, "versions": chosen, "tables": found}


COMMANDS = (retire, gc, compact)
