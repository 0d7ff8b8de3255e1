"""How the tables of a published version are stored, for answers of commands."""

from dataclasses import dataclass
from typing import Literal

from backstay.registry.manifest import RETIRED, Manifest
from backstay.registry.space_files import SpaceFiles
from backstay.registry.stored import read_compacted, read_published


@dataclass(frozen=True, kw_only=True)
class TableStorage:
    """How a published table is stored."""

    entity: str
    rows: int
    stored_as: Literal["whole table", "delta", "delta, compacted"]
    base: int | None = None  # the version that a delta changes
    changed_rows: int = 0
    deleted_rows: int = 0
    new_rows: int = 0
    bytes: int  # of the files that the manifest names
    saved_bytes: int = 0  # against vectors of all rows


def storage(space: SpaceFiles, manifest: Manifest) -> list[TableStorage]:
    """How each table of a version is stored."""
    return [_storage(space, manifest, entity) for entity in sorted(manifest.entities)]


def _storage(space: SpaceFiles, manifest: Manifest, entity: str) -> TableStorage:
    rows, prefix = manifest.entities[entity].rows, f"tables/{entity}/"
    size = sum(entry.size for name, entry in manifest.files.items() if name.startswith(prefix))
    gone = space.files.exists(space.path(manifest.version, RETIRED))
    commit = None if gone else read_published(space, manifest, entity)
    if commit is None or commit.delta is None:
        return TableStorage(entity=entity, rows=rows, stored_as="whole table", bytes=size)
    delta = commit.delta
    compacted = read_compacted(space, manifest, entity) is not None
    return TableStorage(
        entity=entity,
        rows=rows,
        stored_as="delta, compacted" if compacted else "delta",
        base=delta.base,
        changed_rows=delta.changed_rows,
        deleted_rows=delta.deleted_rows,
        new_rows=sum(part.rows for part in commit.parts),
        bytes=size,
        saved_bytes=0 if compacted else max(0, rows * 4 * commit.dim - size),
    )
