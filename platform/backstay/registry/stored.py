"""Opening tables: published and staged ones, and those that a path names.

A table that is stored as a delta is opened with its base, or as the whole table that a compaction
has written since.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from backstay.errors import CorruptError, InputError, NotFoundError
from backstay.registry.compacted import read_record
from backstay.registry.labels import check_labels
from backstay.registry.manifest import RETIRED, Manifest
from backstay.registry.overlay import Overlay
from backstay.registry.space_files import SpaceFiles
from backstay.registry.table_commit import (
    COMMIT,
    TableCommit,
    TableDelta,
    parse_commit,
    table_parts,
)
from backstay.registry.table_layout import ENTITY, SPACE, VERSION
from backstay.registry.tables import EmbeddingTable, open_parts, table_of_parts
from backstay.storage.digests import check_bytes
from backstay.storage.files import FileDigest, Files, open_files

_ABOVE_TABLE = 4
"""<root>/<space>/versions/<k>/tables/<entity>: the parent that is the root of the registry."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A published table, all of whose rows are stored, as the base of a delta."""

    table: EmbeddingTable
    manifest_sha256: str


def published_table(space: SpaceFiles, manifest: Manifest, entity: str) -> EmbeddingTable:
    """The table of an entity of a published version, opened without reading its rows.

    CorruptError where its base or its compaction is not what was published.
    """
    version = manifest.version
    commit = read_published(space, manifest, entity)
    if commit is not None and commit.delta is not None:
        folder = space.path(version, f"tables/{entity}")
        whole = read_compacted(space, manifest, entity)
        return table_of(space, commit, folder) if whole is None else table_of(space, *whole)
    entry = manifest.entities[entity]
    parts = manifest.parts(entity)
    return EmbeddingTable(
        space=space.name,
        entity=entity,
        version=version,
        dim=manifest.dim,
        rows=entry.rows,
        id_type=entry.id_type,
        files=space.files,
        parts=tuple(space.path(version, part) for part in parts),
        fingerprint=manifest.fingerprint(entity),
        digests=tuple(manifest.files[part] for part in parts),
    )


def read_published(space: SpaceFiles, manifest: Manifest, entity: str) -> TableCommit | None:
    """The commit file of a published table; None for versions published before there were any."""
    name = f"tables/{entity}/{COMMIT}"
    if name not in manifest.files:
        return None
    path = space.full(manifest.version, name)
    try:
        data = space.files.read(space.path(manifest.version, name))
    except FileNotFoundError:
        raise NotFoundError(
            f"{path} is gone, though the manifest lists it. Run `backstay verify` and restore it "
            "from a copy."
        ) from None
    return parse_commit(check_bytes(data, manifest.files[name], path=path), path=path)


def read_compacted(
    space: SpaceFiles, manifest: Manifest, entity: str
) -> tuple[TableCommit, str] | None:
    """The commit and the folder of a table that was compacted; None where it was not."""
    record = read_record(space.files, space.path(manifest.version, f"tables/{entity}"))
    if record is None:
        return None
    folder = space.path(manifest.version, f"tables/{entity}/{record.folder}")
    name = f"{folder}/{COMMIT}"
    data = check_bytes(space.files.read(name), record.commit, path=space.files.full(name))
    return parse_commit(data, path=space.files.full(name)), folder


def compacted_files(space: SpaceFiles, manifest: Manifest) -> dict[str, FileDigest]:
    """The files of a version's compacted tables, as paths in the version."""
    found = {}
    for entity in manifest.entities:
        whole = read_compacted(space, manifest, entity)
        if whole is not None:
            folder = whole[1].removeprefix(f"{space.path(manifest.version)}/")
            for part in whole[0].parts:
                found[f"{folder}/{part.name}"] = part.digest
    return found


def table_of(space: SpaceFiles, commit: TableCommit, folder: str) -> EmbeddingTable:
    """The table that a commit file in `folder` of the space's files describes."""
    table = table_of_parts(space.files, folder, commit)
    delta = commit.delta
    if delta is None:
        return table
    laid_over = (*delta.changed, *delta.gone)
    overlay = Overlay(
        files=space.files,
        changed=tuple(f"{folder}/{part.name}" for part in delta.changed),
        deleted=next((f"{folder}/{part.name}" for part in delta.gone), None),
        schema=table.schema,
        digests={f"{folder}/{part.name}": part.digest for part in laid_over},
    )
    return replace(table, base=base_table(space, delta, commit.entity), overlay=overlay)


def base_table(space: SpaceFiles, delta: TableDelta, entity: str) -> EmbeddingTable:
    """The table that a delta changes; CorruptError where it is another one or is gone."""
    manifest = space.manifest(delta.base)
    name = f"{space.name} version {delta.base}"
    if manifest.sha256 != delta.base_manifest_sha256:
        raise CorruptError(
            f"{name} must have a manifest with SHA-256 {delta.base_manifest_sha256}, because the "
            f"table of {entity} in a newer version is stored as changes to it; found "
            f"{manifest.sha256}. Restore version {delta.base} from a copy."
        )
    if space.files.exists(space.path(delta.base, RETIRED)):
        raise CorruptError(
            f"{name} is retired, though the table of {entity} in a newer version is stored as "
            f"changes to it. Restore the tables of version {delta.base} from a copy."
        )
    base = published_table(space, manifest, entity)
    if base.base is not None or base.rows != delta.base_rows:
        raise CorruptError(
            f"{name} must have a whole table of {entity} with {delta.base_rows} rows; found "
            f"{base.rows}. Restore it from a copy."
        )
    return base


def whole_base(space: SpaceFiles, version: int, entity: str) -> Base | None:
    """The base of a delta against a version: its table, or else the base of its table.

    None where the version has no such table any more.
    """
    manifest = space.manifest(version)
    if entity not in manifest.entities or space.files.exists(space.path(version, RETIRED)):
        return None
    table = published_table(space, manifest, entity)
    if table.base is not None:
        return whole_base(space, table.base.version, entity)
    return Base(table=table, manifest_sha256=manifest.sha256)


def deltas(space: SpaceFiles, manifest: Manifest) -> dict[str, TableDelta]:
    """The tables of a published version that are read out of a base, by entity."""
    found = {}
    for entity in manifest.entities:
        commit = read_published(space, manifest, entity)
        if commit and commit.delta and read_compacted(space, manifest, entity) is None:
            found[entity] = commit.delta
    return found


def open_table(
    path: str | Path,
    *,
    space: str | None = None,
    version: int | None = None,
    entity: str | None = None,
    extra_columns: bool = False,
    storage_options: Mapping[str, object] | None = None,
) -> EmbeddingTable:
    """Open a Parquet file, or a folder of them, that has the layout of a table.

    Args:
        path: A path or fsspec URL.
        space: The space the vectors must live in; needed if the table has no label of it.
        version: The version they must have; needed if the table has no label of it.
        entity: The entity of the ids; by default the table's label, else the file's name.
        extra_columns: Whether to allow columns beside id and embedding; reading leaves them out.
        storage_options: For the fsspec file system.

    Raises:
        InputError: The layout is another, the table is labelled with another space or version, or
            Backstay never finished writing it.
        CorruptError: It is not what its commit file lists.
    """
    files = open_files(path, storage_options=storage_options)
    parts, commit = table_parts(files)
    if commit is not None and commit.delta is not None:
        stored = open_delta(files, commit)
        found = {SPACE: stored.space, VERSION: str(stored.version), ENTITY: stored.entity}
        check_labels(
            found,
            str(path),
            space=space or stored.space,
            version=stored.version if version is None else version,
            entity=entity or stored.entity,
            fingerprint=None,
        )
        return stored
    table = open_parts(
        files, parts, space=space, version=version, entity=entity, extra_columns=extra_columns
    )
    if commit is not None and commit.rows != table.rows:
        raise CorruptError(
            f"{path} must have {commit.rows} rows, as its {COMMIT} says; found {table.rows}. "
            "Restore it from a copy, or write it again."
        )
    return table


def open_delta(files: Files, commit: TableCommit) -> EmbeddingTable:
    """The table of a folder whose commit file is a delta's.

    InputError where the folder is not in its registry, beside its base.
    """
    folder = PurePosixPath(files.root)
    if len(folder.parents) > _ABOVE_TABLE and folder.parents[2].name == "versions":
        root = str(folder.parents[_ABOVE_TABLE])
        space = SpaceFiles(type(files)(files.fs, root), folder.parents[3].name, root)
        manifest = space.find_manifest(commit.version)
        if manifest is not None and space.name == commit.space:
            return published_table(space, manifest, commit.entity)
    raise InputError(
        f"{files.root} holds only the changes to a base, {commit.space} version "
        f"{commit.delta.base if commit.delta else None}, and is not in its registry. Read it from "
        "there, or run `backstay compact` on the version and copy the folder full-… instead."
    )
