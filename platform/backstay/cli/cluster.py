"""`backstay cluster`: what a Ray cluster needs from this machine."""

import click

from backstay.terminal import Command


@click.group()
def cluster() -> None:
    """Prepare this machine for a Ray cluster."""


@cluster.command(cls=Command, example="backstay cluster token")
@click.option("--renew", is_flag=True, help="Replace the token that is there.")
def token(*, renew: bool) -> object:
    """Make the secret token of a cluster, or keep the one that is there.

    The answer names its file: RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token. Whoever has the token
    can run code on the cluster. `ray up cluster.yaml` copies the file to every node. A running
    cluster keeps the token that it started with.
    """
    from backstay.cluster.token import make_token

    return make_token(renew=renew)


COMMANDS = (cluster,)
