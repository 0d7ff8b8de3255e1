"""Verbs on the versions of a space: fit, list, show, verify, retire."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backstay.cli import options
from backstay.errors import CorruptError, InputError, RegistryError
from backstay.terminal import Command, Output

if TYPE_CHECKING:
    from backstay.registry.store import Space


@click.command(
    cls=Command,
    example="backstay update --registry registry --space movies --dataset datasets/ml-25m "
    "--until 0.6 --dim 320",
)
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
@click.option("--layers", type=options.POSITIVE, help="Layers of the model.  [default: 2, later 3]")
@options.profile
@click.option(
    "--architecture",
    type=click.Choice(["pinsage", "lightgcn", "factorisation"]),
    default="pinsage",
    help="Embedding model.",
)
@click.option(
    "--epochs", type=options.POSITIVE, help="Epochs of the fit.  [default: the profile's]"
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
    "this share.  [default: 0.1]",
)
@click.option(
    "--max-alignment-error",
    type=click.FloatRange(min=0),
    help="Refuse a version whose converted vectors are off by more than this share of their "
    "spread.  [default: 0.5]",
)
@click.option("--force", is_flag=True, help="Publish in spite of what the guard finds.")
def update(**settings: object) -> object:
    """Fit the next version and publish it.

    Trains the model and its map back to the version before on the timeline up to T, evaluates both
    and publishes them. Run the same command again after a crash: it resumes from the last
    checkpoint. After success, the same command publishes nothing more.

    Refuses, without --force, what would harm readers of older versions.
    """
    from backstay.engines.update import update as run
    from backstay.engines.update_config import UpdateConfig

    return run(UpdateConfig(**options.given(settings)))


@click.command(cls=Command, example="backstay versions --registry registry --space movies")
@options.space
def versions(registry: str, space: str) -> object:
    """List the published versions of a space."""
    opened = _open(registry, space)
    opened.latest()  # raises if the space has no version
    return [_summary(opened, version) for version in opened.versions()]


@click.command(cls=Command, example="backstay show --registry registry --space movies 2")
@options.space
@options.version
def show(registry: str, space: str, version: int) -> object:
    """Show the manifest and metrics of one version."""
    opened = _open(registry, space)
    manifest = opened.manifest(version)
    return {
        "manifest": manifest,
        "metrics": opened.metrics(version) if "metrics.json" in manifest.files else {},
        "retired": opened.retired(version),
    }


@click.command(cls=Command, example="backstay verify --registry registry --space movies")
@options.space
@click.argument("version", metavar="[VERSION]", required=False, type=options.VERSION)
@click.pass_obj
def verify(output: Output, /, registry: str, space: str, version: int | None) -> None:
    """Check published files against their manifests.

    Checks one version, or all. Exits 1 if a file is missing or differs from its manifest.
    """
    from backstay.registry import verify as checks

    opened = _open(registry, space)
    opened.latest()
    chosen = opened.versions() if version is None else [version]
    problems = [
        {"version": number, **asdict(defect)}
        for number in chosen
        for defect in checks.verify(opened, number)
    ]
    output.show({"space": space, "verified": chosen, "problems": problems})
    if problems:
        raise CorruptError(
            f"{len(problems)} files of {space} differ from what was published; the list names "
            "them. Restore them from a copy."
        )


@click.command(
    cls=Command,
    example='backstay retire --registry registry --space movies 0 --reason "no readers left"',
)
@options.space
@options.version
@click.option("--reason", default="", help="Reason to record with the version.")
@click.option("--force", is_flag=True, help="Retire it even if no other table gives its vectors.")
def retire(registry: str, space: str, version: int, reason: str, force: bool) -> object:
    """Remove a version's tables and model.

    Its vectors can still be read as a virtual version, out of the newest table.
    """
    return _open(registry, space).retire(version, reason=reason, force=force)


def _open(registry: str, space: str) -> "Space":
    from backstay.registry.store import Registry

    if "://" not in registry and not Path(registry).is_dir():
        raise InputError(
            f"--registry: expected the folder of a registry, found no folder {registry}. "
            "Check the path."
        )
    return Registry(registry).space(space)


def _summary(space: "Space", version: int) -> dict[str, object]:
    try:
        manifest = space.manifest(version)
    except RegistryError as error:
        return {"version": version, "unreadable": str(error)}
    return {
        "version": version,
        "method": manifest.method,
        "dim": manifest.dim,
        "until": manifest.dataset.until,
        "rows": {name: entity.rows for name, entity in manifest.entities.items()},
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "created": manifest.created,
        "retired": retirement.retired if (retirement := space.retired(version)) else None,
    }


COMMANDS = (update, versions, show, verify, retire)
