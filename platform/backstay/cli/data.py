"""Verbs that make a dataset folder."""

from pathlib import Path

import click

from backstay.cli import options
from backstay.terminal import Command

FORMATS = ("amazon", "movielens", "movietweetings", "recbole", "table")

_COLUMNS = ("user", "item", "rating", "time", "attributes", "items", "integer_ids")


@click.command(
    cls=Command, example="backstay ingest --format movielens ml-25m/ --out datasets/ml-25m"
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--format", "format", required=True, type=click.Choice(FORMATS), help="Format of the files."
)
@options.dataset_folder
@click.option("--name", help="Name of the dataset in reports.  [default: the folder's name]")
@click.option("--strict", is_flag=True, help="Fail at the first bad row instead of counting it.")
@click.option("--rating-scale", type=float, help="Greatest possible rating (recbole, table).")
@click.option(
    "--time-unit",
    type=click.Choice(["auto", "s", "ms", "us", "ns"]),
    default="auto",
    help="Unit of numeric timestamps (recbole, table).",
)
@click.option("--user", metavar="COLUMN", help="table: column of user ids.  [default: user_id]")
@click.option("--item", metavar="COLUMN", help="table: column of item ids.  [default: item_id]")
@click.option("--rating", metavar="COLUMN", help="table: column of ratings.  [default: rating]")
@click.option("--time", metavar="COLUMN", help="table: column of times.  [default: timestamp]")
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    metavar="KIND=COLUMN",
    type=options.PAIR,
    help="table: a column of item attributes; may be repeated.",
)
@click.option(
    "--items", type=options.FILE, help="table: file with the attributes, if not in the same file."
)
@click.option("--integer-ids", is_flag=True, help="table: read ids in text files as integers.")
@click.option("--memory-limit", default="1GB", help="Most memory that sorting may use.")
def ingest(paths: tuple[Path, ...], **settings: object) -> object:
    """Read a public format into a dataset folder.

    PATHS are files, or the folder that holds them. Bad rows are skipped; the answer lists how many
    and why.
    """
    from backstay.datasets.columns import Columns
    from backstay.datasets.ingest import ingest as run

    given = options.given(settings)
    columns = {name: given.pop(name) for name in _COLUMNS if name in given}
    return run(paths, columns=Columns(**columns) if columns else None, **given)


@click.command(
    cls=Command,
    example="backstay marketplace --interactions 1000000 --out datasets/marketplace",
)
@options.dataset_folder
@click.option(
    "--interactions", type=options.POSITIVE, default=30_000, help="Rows: 2,000 to 50 million."
)
@click.option(
    "--users", type=options.POSITIVE, help="Number of users.  [default: grows with interactions]"
)
@click.option(
    "--items", type=options.POSITIVE, help="Number of items.  [default: grows with interactions]"
)
@click.option(
    "--drift", type=click.FloatRange(min=0), default=1.0, help="How fast users' tastes change."
)
@click.option("--seed", type=int, default=0, help="The same options and seed give the same rows.")
def marketplace(out: Path, **size: object) -> object:
    """Generate a dataset of the built-in marketplace."""
    from backstay.datasets.marketplace import MarketplaceConfig, generate

    return generate(MarketplaceConfig(**options.given(size)), out)


COMMANDS = (ingest, marketplace)
