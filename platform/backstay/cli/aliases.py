"""Verbs that move an alias: promote and rollback."""

import click

from backstay.cli import options
from backstay.cli.versions import open_space
from backstay.terminal import Command

_alias = click.option("--alias", default="prod", help="Name of the alias to move.")
_why = click.option("--why", default="", metavar="TEXT", help="Reason to record with the move.")
_space = click.option("--space", metavar="S", help="Name of the space, if not the first word.")


@click.command(
    cls=Command,
    example='backstay promote --registry registry movies 3 --alias prod --why "recall +2 %"',
)
@options.registry
@_space
@click.argument("words", nargs=-1, required=True, metavar="[SPACE] VERSION")
@_alias
@_why
@click.option("--force", is_flag=True, help="Move it though consumer contracts refuse the version.")
def promote(
    words: tuple[str, ...], space: str | None, registry: str, alias: str, why: str, force: bool
) -> object:
    """Point an alias to a version, if all consumer contracts allow it.

    Look-ups without a version are answered in the version of the alias prod, where there is one.
    """
    from backstay.evaluation.contracts.promote import promote_checked

    name, version = _space_and(words, space, expected="SPACE VERSION")
    if not version.isdecimal():
        raise click.BadParameter(f"expected the number of a version, found {version}.")
    return promote_checked(
        open_space(registry, name), int(version), alias=alias, why=why, force=force
    )


@click.command(
    cls=Command,
    example='backstay rollback --registry registry movies --alias prod --why "AUC of ads fell"',
)
@options.registry
@_space
@click.argument("words", nargs=-1, metavar="[SPACE]")
@_alias
@_why
def rollback(
    words: tuple[str, ...], space: str | None, registry: str, alias: str, why: str
) -> object:
    """Point an alias to the version it pointed to before.

    Repeated, it goes back one version more.
    """
    from backstay.registry import aliases

    name, _ = _space_and((*words, ""), space, expected="SPACE")
    return aliases.rollback(open_space(registry, name), alias=alias, why=why)


def _space_and(words: tuple[str, ...], space: str | None, *, expected: str) -> tuple[str, str]:
    """The space, given as --space or as the first word, and the last word."""
    if len(words) != (1 if space else 2):
        found = " ".join(word for word in words if word) or "nothing"
        wanted = expected.removeprefix("SPACE").strip() or "no word"
        raise click.UsageError(
            f"expected {expected}, or --space S and {wanted}; found {found}"
            + (f" and --space {space}." if space else ".")
        )
    return space or words[0], words[-1]


COMMANDS = (promote, rollback)
