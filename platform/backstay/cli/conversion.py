"""`backstay convert`."""

import click

from backstay.cli import options
from backstay.terminal import Command


class _ConvertCommand(Command):
    """A command whose --to takes one or more versions: `--to 0 1 stable`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat --to before each further version."""
        repeated: list[str] = []
        for arg in args:
            after_a_target = len(repeated) > 1 and repeated[-2] == "--to" and arg[:1] != "-"
            repeated += ["--to", arg] if after_a_target else [arg]
        return super().parse_args(ctx, repeated)


@click.command(
    cls=_ConvertCommand,
    example="backstay convert --registry registry --space movies --from 4 --to 0 1 "
    "--input items.parquet --output items-older",
)
@options.space
@click.option(
    "--from",
    "source",
    required=True,
    metavar="K",
    help="Version of the table: a number, an alias such as prod, or latest.",
)
@click.option(
    "--to",
    "targets",
    required=True,
    multiple=True,
    metavar="J…",
    help="Versions to convert to: one, or several in one pass, each into OUTPUT/v<j>. Numbers or "
    "aliases.",
)
@click.option(
    "--input",
    "input_",
    metavar="PARQUET",
    help="Table: a file, folder or URL. Left out: the table that the registry has.",
)
@click.option("--output", required=True, metavar="DIR", help="Folder or URL to write.")
@click.option("--entity", help="Entity of the ids, such as item. By default the table's label.")
@click.option("--id-column", default="id", help="Column of ids: strings or integers.")
@click.option(
    "--embedding-column",
    default="embedding",
    help="Column of vectors: lists of floats, or fixed-size binary.",
)
@click.option(
    "--assume-version",
    type=options.VERSION,
    metavar="K",
    help="Version of a table that has no label of it.",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", help="Of the output."
)
@click.option(
    "--on-error",
    type=click.Choice(["refuse", "quarantine"]),
    default="refuse",
    help="Refuse a table with bad rows, or set them aside in rejected/.",
)
@click.option(
    "--workers", type=options.POSITIVE, help="Most parts converted at once. By default all cores."
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "local", "ray"]),
    default="auto",
    help="Threads of this process, or Ray Data; auto takes Ray on a cluster.",
)
@click.option("--dry-run", is_flag=True, help="Only estimate rows, bytes, memory and time.")
def convert(
    registry: str,
    space: str,
    source: str,
    targets: tuple[str, ...],
    input_: str | None,
    dry_run: bool,
    **settings: object,
) -> object:
    """Convert a table of version K to one or more older versions J.

    The same command after a kill does what is missing.
    """
    from backstay.engines.conversion import convert as engine
    from backstay.engines.conversion.config import ConvertConfig
    from backstay.registry.store import Registry

    def number(name: str) -> int:
        return int(name) if name.isdecimal() else Registry(registry).space(space).resolve(name)

    config = ConvertConfig(
        registry=registry,
        space=space,
        source=number(source),
        targets=tuple(map(number, targets)),
        input=input_,
        **options.given(settings),
    )
    return engine.estimate(config) if dry_run else engine.convert(config)


COMMANDS = (convert,)
