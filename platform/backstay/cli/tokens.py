"""`backstay tokens`: who may ask the look-up service for what."""

from typing import TYPE_CHECKING

import click

from backstay.cli import options
from backstay.cli.versions import open_registry
from backstay.terminal import Command

if TYPE_CHECKING:
    from backstay.registry.tokens import Token


@click.group()
def tokens() -> None:
    """Make and revoke the tokens that the look-up service asks for."""


@tokens.command(
    cls=Command,
    example="backstay tokens add ranking --registry registry --space movies --consumer ranking "
    "--days 90",
)
@options.registry
@click.argument("name", metavar="NAME")
@click.option(
    "--space", "spaces", multiple=True, metavar="S",
    help="Space that it may read; can be given several times.  [default: all]",
)  # fmt: skip
@click.option(
    "--verb", "verbs", multiple=True, type=click.Choice(["lookup", "describe", "metrics"]),
    help="What it allows; can be given several times.  [default: all]",
)  # fmt: skip
@click.option("--consumer", help="Consumer whose contract decides the version by default.")
@click.option("--days", type=float, help="Days until it expires.  [default: never]")
def add(registry: str, name: str, **scope: object) -> object:
    """Make a token for NAME and print it, this once.

    The registry holds a hash only. A running service accepts the token after its next refresh.
    """
    from backstay.registry.store import Registry
    from backstay.registry.tokens import create

    token, text = create(Registry(registry).files, name, **options.given(scope))
    return {"token": text, **_shown(token)}


@tokens.command("list", cls=Command, example="backstay tokens list --registry registry")
@options.registry
def list_(registry: str) -> object:
    """List all tokens: whose they are and what they allow, not the tokens themselves."""
    from backstay.registry.tokens import tokens as listed

    return [_shown(token) for token in listed(open_registry(registry).files)]


@tokens.command(cls=Command, example="backstay tokens revoke 3f9c0a61b2de --registry registry")
@options.registry
@click.argument("id_", metavar="ID")
def revoke(registry: str, id_: str) -> object:
    """End a token for ever. A running service refuses it after its next refresh."""
    from backstay.registry.tokens import revoke as run

    return _shown(run(open_registry(registry).files, id_))


def _shown(token: "Token") -> dict[str, object]:
    state = token.state if token.is_valid() or token.state == "revoked" else "expired"
    columns = ("id", "name", "spaces", "verbs", "consumer", "expires", "who", "when")
    return {"state": state} | {column: getattr(token, column) for column in columns}


COMMANDS = (tokens,)
