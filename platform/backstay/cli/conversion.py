"""`backstay convert`."""

import click

from backstay.cli import options
from backstay.terminal import Command


@click.command(
    cls=Command,
    example="backstay convert --registry registry --space movies --from 4 --to 0 "
    "--input items.parquet --output items-v0",
)
@options.space
@click.option(
    "--from",
    "source",
    required=True,
    type=options.VERSION,
    metavar="K",
    help="Version of the table.",
)
@click.option(
    "--to",
    "target",
    required=True,
    type=options.VERSION,
    metavar="J",
    help="Version to convert to.",
)
@click.option(
    "--input", "input_", required=True, metavar="PARQUET", help="Table: a file, folder or URL."
)
@click.option("--output", required=True, metavar="DIR", help="Folder or URL to write.")
@click.option(
    "--workers", type=options.POSITIVE, help="Parts converted at the same time, with Ray."
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "local", "ray"]),
    default="auto",
    help="Convert in this process, or with Ray Data.",
)
def convert(registry: str, space: str, input_: str, **settings: object) -> object:
    """Convert a table of version K to the older version J."""
    from backstay.engines.convert import convert as run

    return run(registry=registry, space=space, input=input_, **options.given(settings))


COMMANDS = (convert,)
