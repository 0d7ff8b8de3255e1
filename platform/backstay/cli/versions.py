"""Verbs on the versions of a space: list, show, verify."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backstay.cli import options
from backstay.errors import CorruptError, InputError, RegistryError
from backstay.terminal import Command, Output

if TYPE_CHECKING:
    from rich.tree import Tree

    from backstay.registry.store import Registry, Space


@click.command(cls=Command, example="backstay versions --registry registry --space movies")
@options.space
@click.option("--tree", is_flag=True, help="Draw which version is built on which.")
@click.pass_obj
def versions(output: Output, /, registry: str, space: str, tree: bool) -> None:
    """List the published versions of a space.

    With the aliases and consumers that read each.
    """
    opened = open_space(registry, space)
    opened.latest()  # raises if the space has no version
    rows = _summaries(opened)
    output.show(rows, picture=_tree(space, rows) if tree else None)


@click.command(cls=Command, example="backstay show --registry registry --space movies 2")
@options.space
@options.version
def show(registry: str, space: str, version: int) -> object:
    """Show the manifest and metrics of one version.

    With how its tables are stored, and how aliases moved to and from it.
    """
    from backstay.registry import aliases
    from backstay.registry.table_storage import storage

    opened = open_space(registry, space)
    manifest = opened.manifest(version)
    return {
        "manifest": manifest,
        "tables": storage(opened, manifest),
        "metrics": opened.metrics(version) if "metrics.json" in manifest.files else {},
        "contracts": opened.verdicts(version),
        "retired": opened.retired(version),
        "aliases": [
            move
            for alias in aliases.aliases(opened)
            for move in aliases.history(opened, alias)
            if version in (move.before, move.to)
        ],
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

    opened = open_space(registry, space)
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


def open_registry(registry: str) -> "Registry":
    """The registry that --registry names; InputError where it is a folder that isn't there."""
    from backstay.registry.store import Registry

    if "://" not in registry and not Path(registry).is_dir():
        raise InputError(
            f"--registry: expected the folder of a registry, found no folder {registry}. "
            "Check the path."
        )
    return Registry(registry)


def open_space(registry: str, space: str) -> "Space":
    """The space that --registry and --space name."""
    return open_registry(registry).space(space)


def _summaries(space: "Space") -> list[dict[str, object]]:
    """One row a version: its manifest's figures, and who reads it."""
    from backstay.registry.aliases import aliases
    from backstay.registry.contracts import contracts

    named, pinned = aliases(space), contracts(space)
    return [
        _summary(
            space,
            version,
            {
                "aliases": [name for name, at in named.items() if at == version],
                "consumers": [each.name for each in pinned if each.version == version],
            },
        )
        for version in space.versions()
    ]


def _summary(space: "Space", version: int, readers: dict[str, list[str]]) -> dict[str, object]:
    try:
        manifest = space.manifest(version)
    except RegistryError as error:
        return {"version": version, **readers, "unreadable": str(error)}
    return {
        "version": version,
        "method": manifest.method,
        "dim": manifest.dim,
        "until": manifest.dataset.until,
        "rows": {name: entity.rows for name, entity in manifest.entities.items()},
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "created": manifest.created,
        "parent": manifest.parent,
        "map": "backward.safetensors" in manifest.files,
        **readers,
        "retired": retirement.retired if (retirement := space.retired(version)) else None,
    }


def _tree(space: str, rows: list[dict[str, object]]) -> "Tree":
    """Each version under the one that its map leads to; a version without a map starts a branch."""
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(space))
    branch = root
    for row in rows:
        words = [f"{row['version']}"]
        if "unreadable" in row:
            words.append(f"unreadable: {row['unreadable']}")
        else:
            words.append(f"{row['method']}, {row['dim']} dimensions")
            if row["version"] and not row["map"]:
                words.append(f"no map to version {row['parent']}")
            if row["retired"]:
                words.append("retired")
        words += [
            f"{kind}: {', '.join(names)}"
            for kind in ("aliases", "consumers")
            if isinstance(names := row[kind], list) and names
        ]
        parent = branch if row.get("map") or not row["version"] else root
        branch = parent.add(Text("  ".join(words)))
    return root


COMMANDS = (versions, show, verify)
