"""Verbs that compare update methods, maps and weights."""

import logging
from pathlib import Path

import click

from backstay.cli import options
from backstay.terminal import Command, Output, flags

log = logging.getLogger("backstay.cli")

_OF_TABLES = ("methods", "sample", "seed")


@click.command(
    cls=Command,
    example="backstay compare datasets/ml-25m --out runs/ml-25m "
    "--methods fix-m0,no-bc,bc-aligner --dims 128,160,192",
)
@click.argument("paths", nargs=-1, required=True, metavar="DATASET")
@click.option("--tables", is_flag=True, hidden=True, help="Old spelling of compare-tables.")
@options.run_folder
@click.option("--methods", type=options.NAMES, help="Update methods.  [default: all]")
@options.plan
@click.option("--weight", type=float, help="λ, the weight of the alignment loss.")
@click.option(
    "--workers", type=options.POSITIVE, help="Tasks that run at the same time; 1: without Ray."
)
@click.option("--sample", type=options.POSITIVE, hidden=True, help="See compare-tables.")
@click.pass_context
def compare(
    ctx: click.Context, /, paths: tuple[str, ...], tables: bool, out: Path, **settings: object
) -> None:
    """Compare update methods: every method, version and consumer.

    Writes results.json, report.html and the figures; the answer is results.json. The profile sets
    the options that are left out.
    """
    _refuse_misplaced(ctx, tables=tables)
    if tables:
        log.warning("`backstay compare --tables` is now `backstay compare-tables`; use that.")
        _compare_tables(ctx.obj, paths, out, {name: settings[name] for name in _OF_TABLES})
        return
    from backstay.engines.compare import compare as run
    from backstay.evaluation.report.terminal_table import terminal_table

    dataset = options.DATASET.convert(paths[0], None, ctx)
    analysis = run(dataset, out=out, **options.given(settings))
    ctx.obj.show(analysis.results, picture=terminal_table(analysis))


def _refuse_misplaced(ctx: click.Context, *, tables: bool) -> None:
    """Raise a usage error for options that fit only the other kind of comparison."""
    if not tables and len(ctx.params["paths"]) > 1:
        raise click.UsageError(
            f"expected one dataset, found {len(ctx.params['paths'])} paths. "
            "`backstay compare-tables` compares embedding tables.",
            ctx,
        )
    of_tables = ("paths", "tables", "out", *_OF_TABLES)
    for name in ctx.params:
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and (name not in of_tables if tables else name == "sample"):
            raise click.UsageError(
                f"{flags(ctx.command)[name]} is an option of "
                f"`backstay {'compare' if tables else 'compare-tables'}` only.",
                ctx,
            )


@click.command(
    "compare-tables",
    cls=Command,
    example="backstay compare-tables v0.parquet v1.parquet --out runs/mine",
)
@click.argument("tables", nargs=-1, required=True, metavar="T0 T1 …")
@options.run_folder
@click.option("--methods", type=options.NAMES, help="Maps to compare.  [default: all]")
@click.option("--sample", type=options.POSITIVE, help="Ids to fit on.  [default: 100,000]")
@options.seed
@click.pass_obj
def compare_tables(
    output: Output, /, tables: tuple[str, ...], out: Path, **settings: object
) -> None:
    """Find the best map from one embedding table back to another.

    T0 T1 … are two tables or more, oldest first: Parquet files, or folders of them, with the
    columns id and embedding. Maps are fitted on a sample of the shared ids and judged on other ids.
    Writes tables.json and report.html; the answer is tables.json.
    """
    _compare_tables(output, tables, out, settings)


def _compare_tables(
    output: Output, tables: tuple[str, ...], out: Path, settings: dict[str, object]
) -> None:
    from backstay.evaluation.table_maps.compare import compare_tables
    from backstay.evaluation.table_maps.terminal_table import terminal_picture
    from backstay.evaluation.table_maps.write import document, write_comparison

    found = compare_tables(tables, out=out, **options.given(settings))
    write_comparison(found, out)
    output.show(document(found), picture=terminal_picture(found))


@click.command(
    cls=Command, example="backstay tune datasets/ml-25m --out runs/weights --weights 1,4,16,64"
)
@click.argument("dataset", type=options.DATASET)
@options.run_folder
@click.option(
    "--weights", type=options.NUMBERS, help="Values of λ to try.  [default: a search chooses]"
)
@click.option("--trials", type=options.POSITIVE, help="Number of values that the search chooses.")
@click.option("--method", default="bc-aligner", help="Update method whose weight is searched.")
@options.plan
@click.option("--workers", type=options.POSITIVE, help="Trials that run at the same time.")
def tune(dataset: Path, out: Path, **settings: object) -> object:
    """Search λ, the weight of the alignment loss.

    Each trial fits all versions with one λ. The answer is the Pareto front of the cost on the
    intended task against the cost to consumers. The profile sets the options that are left out.
    Run the same command again after a crash: finished trials are kept.
    """
    from backstay.engines.search import search

    return search(dataset, out=out, **options.given(settings))


COMMANDS = (compare, compare_tables, tune)
