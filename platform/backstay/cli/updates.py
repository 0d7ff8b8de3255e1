"""Verbs that publish the next version: update and import."""

import click

from backstay.cli import options
from backstay.cli.config import config_file
from backstay.terminal import Command

_max_alignment_error = click.option(
    "--max-alignment-error",
    type=click.FloatRange(min=0),
    help="Refuse a version whose converted vectors are off by more than this share of their "
    "spread.  [default: 0.5]",
)
_force = click.option("--force", is_flag=True, help="Publish in spite of what the guard finds.")
_promote = click.option(
    "--promote",
    default="none",
    metavar="ALIAS|none",
    help="Alias to point to the new version, such as prod.",
)


@click.command(
    cls=Command,
    example="backstay update --registry registry --space movies --dataset datasets/ml-25m "
    "--until 0.6 --dim 320",
)
@config_file
@options.space
@click.option("--dataset", required=True, type=options.DATASET, help="Dataset folder.")
@click.option(
    "--until",
    required=True,
    type=options.POSITION,
    metavar="T",
    help="Train up to this position on the timeline, 0 to 1.",
)
@click.option(
    "--window", type=options.POSITION, help="Length of the timeline after T to evaluate on."
)
@click.option("--method", default="bc-aligner", help="Update method.")
@click.option(
    "--weight", type=float, help="λ, the weight of the alignment loss.  [default: fast 1, paper 16]"
)
@click.option(
    "--dim",
    type=options.POSITIVE,
    help="Dimension of the vectors.  [default: wider than the version before]",
)
@options.new_dims
@options.rate
@click.option("--layers", type=options.POSITIVE, help="Layers of the model.  [default: 2, later 3]")
@options.profile
@click.option(
    "--architecture",
    type=click.Choice(["pinsage", "lightgcn", "factorisation"]),
    default="pinsage",
    help="Embedding model.",
)
@click.option(
    "--epochs",
    type=options.POSITIVE,
    help="Epochs from scratch; a warm start scales with it.  [default: the profile's]",
)
@click.option("--batch-size", type=options.POSITIVE, help="Training triples per optimiser step.")
@options.epochs_between
@click.option(
    "--sampling",
    type=click.Choice(["auto", "full", "neighbours"]),
    help="Train on the whole graph, or on sampled neighbours.  [default: by the graph's size]",
)
@click.option("--fan-out", type=options.POSITIVE, help="Neighbours sampled per node and layer.")
@click.option(
    "--groups",
    type=options.POSITIVE,
    help="Sampled graphs in a batch; at most this many workers share it.",
)
@options.seed
@click.option(
    "--workers",
    type=options.WORKERS,
    help="Training workers, or MIN:MAX of them; 0: this process.  [default: 0; on a cluster 1]",
)
@click.option("--gpu", is_flag=True, help="Give each worker one GPU.")
@click.option("--checkpoints", metavar="URI", help="Folder or URL for checkpoints.")
@click.option(
    "--checkpoint-seconds", type=options.SECONDS, help="Most seconds of work that a crash may lose."
)
@click.option(
    "--log-dir", type=options.FOLDER, help="Folder for TensorBoard events and fit_report.json."
)
@click.option(
    "--run-name",
    help="Name of the run. The same name resumes it after a crash; a new one publishes a request "
    "again that was published already.",
)
@click.option(
    "--max-recall-loss",
    type=click.FloatRange(min=0),
    help="Refuse a version whose Recall@50 is lower than that of the version before by more than "
    "this share; warn where the loss may be chance.  [default: 0.1]",
)
@_max_alignment_error
@_force
@_promote
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what it would cost and whom it would affect. Begins the fit; writes nothing.",
)
def update(dry_run: bool, **settings: object) -> object:
    """Fit the next version and publish it.

    Trains the model and its map back to the version before on the timeline up to T, evaluates both
    and publishes them. Run the same command again after a crash: it resumes from the last
    checkpoint. After success, the same command publishes nothing more.

    Refuses, without --force, what would harm readers of older versions.
    """
    from backstay.engines.update_config import UpdateConfig

    config = UpdateConfig(**options.given(settings))
    if dry_run:
        from backstay.engines.estimate import estimate

        return estimate(config)
    from backstay.engines.update import update as run

    return run(config)


@click.command(
    "import",
    cls=Command,
    example="backstay import --registry registry --space movies --table items.parquet "
    "--entity item",
)
@options.space
@click.option(
    "--table",
    "tables",
    required=True,
    multiple=True,
    metavar="T",
    help="Parquet file, folder or URL, *.arrow, or *.npy with --ids; once for each entity.",
)
@click.option(
    "--entity",
    "entities",
    multiple=True,
    help="Entity of the table's ids, once for each table.  [default: the file's name]",
)
@click.option("--ids", type=options.FILE, help="Ids of a *.npy: another one, or one id a line.")
@click.option(
    "--id-type",
    "id_types",
    multiple=True,
    type=click.Choice(["int64", "string"]),
    help="What ids are stored as, once for all tables or once for each.  [default: integers as "
    "int64, others as string]",
)
@click.option("--no-map", is_flag=True, help="Publish without a map to the version before.")
@click.option(
    "--delta",
    type=click.Choice(["auto", "never"]),
    default="auto",
    help="Store only the rows that differ from the version before, where they are few; or all.",
)
@_max_alignment_error
@_force
@_promote
def import_(**settings: object) -> object:
    """Publish an outside table as the next version.

    Fits a linear map to the version before on ids that both have, and judges it on held-out ones.
    Refuses, without --force, what would harm readers of older versions.
    """
    from backstay.engines.import_table import ImportConfig, import_tables

    return import_tables(ImportConfig(**options.given(settings)))


COMMANDS = (update, import_)
