"""Verbs that compare update methods, maps and weights."""

import logging
from dataclasses import fields
from pathlib import Path

import click

from backstay.cli import options
from backstay.cli.config import config_file
from backstay.terminal import Command, Output, flags

log = logging.getLogger("backstay.cli")

_OF_TABLES = ("methods", "sample", "seed")


@click.command(
    cls=Command,
    example="backstay compare datasets/ml-25m --out runs/ml-25m "
    "--methods fix-m0,no-bc,bc-aligner --dims 128,160,192",
)
@click.argument("paths", nargs=-1, required=True, metavar="DATASET")
@config_file
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
@options.storage_options
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


@click.command(cls=Command, example="backstay tune datasets/ml-25m --out runs/search --trials 12")
@click.argument("dataset", type=options.DATASET)
@options.run_folder
@config_file
@click.option(
    "--weights", type=options.NUMBERS, help="Values of λ to try.  [default: a search chooses]"
)
@click.option(
    "--search",
    "parameters",
    type=options.NAMES,
    help="What to vary, of weight, rate, epochs, new-dims.  [default: weight]",
)
@click.option(
    "--trials",
    type=options.POSITIVE,
    help="Trials that the search chooses, beside λ = 1 and λ = 16.  [default: 10]",
)
@click.option("--minutes", type=options.SECONDS, help="Stop after so long; finished trials count.")
@click.option(
    "--judge-on",
    "judged",
    type=options.POSITIVE,
    help="Last windows that judge the choice and that the search does not see.  [default: 1]",
)
@click.option(
    "--choose",
    "rule",
    type=click.Choice(["least-intended-cost", "best-sum"]),
    default="least-intended-cost",
    help="The best recommendation among trials whose consumers surely lose at most --tolerance, "
    "or the best sum.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=2.0,
    metavar="PERCENT",
    help="Percent of ROC-AUC that consumers may lose.",
)
@click.option("--method", default="bc-aligner", help="Update method whose settings are searched.")
@options.plan
@click.option("--workers", type=options.POSITIVE, help="Trials that run at the same time.")
@click.pass_obj
def tune(output: Output, /, dataset: Path, out: Path, **settings: object) -> None:
    """Search λ, the weight of the alignment loss, and other settings.

    The search chooses on the first windows of the timeline. The last window, which it does not see,
    judges the choice. Writes report.html, search.json and best.yaml, which `backstay update
    --config` and `backstay compare --config` take. The profile sets the options that are left out.
    Run the same command again after a crash: it goes on.
    """
    from backstay.engines.search.config import SearchConfig
    from backstay.engines.search.run import search
    from backstay.evaluation.comparison.plan import ComparePlan
    from backstay.evaluation.report.search_page import search_document
    from backstay.evaluation.report.search_table import search_table

    given = options.given(settings)
    of_search = {field.name for field in fields(SearchConfig)}
    own = {name: given.pop(name) for name in of_search & set(given)}
    plan = ComparePlan.of(given.pop("profile"), **given)
    findings = search(dataset, out=out, config=SearchConfig(plan=plan, **own))
    output.show(search_document(findings), picture=search_table(findings))


COMMANDS = (compare, compare_tables, tune)
