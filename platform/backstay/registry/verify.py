"""Checking a version against its manifest, byte by byte, and its content against its dimensions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from backstay.errors import BackstayError, CorruptError, NotFoundError, RegistryError
from backstay.registry.claims import is_claim
from backstay.registry.manifest import (
    BACKWARD,
    FIT_REPORT,
    MANIFEST,
    METRICS,
    MODEL,
    RETIRED,
    Manifest,
)
from backstay.registry.store import Space
from backstay.registry.tables import EmbeddingTable, open_parts
from backstay.storage.digests import check_file
from backstay.storage.ids import IdKeys, refuse_duplicates


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One difference between a version and what was published."""

    kind: Literal["missing", "changed", "unreadable", "stray", "parent", "content"]
    path: str  # within the version's folder
    message: str


def verify(space: Space, version: int) -> list[Defect]:
    """All differences between a version and what was published; empty if there is none."""
    space = space.fresh()
    try:
        manifest = space.manifest(version)
    except NotFoundError:
        raise
    except CorruptError as error:
        return [Defect(kind="changed", path=MANIFEST, message=str(error))]
    except RegistryError as error:
        return [Defect(kind="unreadable", path=MANIFEST, message=str(error))]
    defects = [
        *_bytes(space, manifest),
        *_ancestors(space, manifest),
        *_files(space, manifest, version),
    ]
    if not defects:  # the content of files that were changed later is not checked
        defects += _content(space, manifest)
    return defects


def _bytes(space: Space, manifest: Manifest) -> Iterator[Defect]:
    """Check a manifest of format 1, which has no checksum of its own, for edits."""
    if space.files.read(space.path(manifest.version, MANIFEST)) != manifest.to_json():
        message = "has other bytes than Backstay writes for it: it was edited."
        yield Defect(kind="changed", path=MANIFEST, message=message)


def _ancestors(space: Space, child: Manifest) -> Iterator[Defect]:
    """Check that each older manifest has the hash that its successor recorded."""
    while child.parent is not None:
        try:
            parent = space.find_manifest(child.parent)
        except RegistryError as error:
            yield Defect(kind="parent", path=MANIFEST, message=str(error))
            return
        found = parent.sha256 if parent else "no manifest"
        if parent is None or found != child.parent_manifest_sha256:
            message = (
                f"version {child.version} was published on a version {child.parent} whose manifest "
                f"had SHA-256 {child.parent_manifest_sha256}; found {found}."
            )
            yield Defect(kind="parent", path=MANIFEST, message=message)
            return
        child = parent


def _files(space: Space, manifest: Manifest, version: int) -> Iterator[Defect]:
    """Check that exactly the files of the manifest are there, with their sizes and hashes."""
    retired = space.retired(version)
    expected = {k: v for k, v in manifest.files.items() if not retired or k not in retired.removed}
    found = space.files.find(space.path(version))
    for name, entry in sorted(expected.items()):
        if name not in found:
            message = "is in the manifest but not there."
            yield Defect(kind="missing", path=name, message=message)
            continue
        try:
            check_file(space.files, space.path(version, name), entry)
        except CorruptError as error:
            yield Defect(kind="changed", path=name, message=str(error))
    for name in sorted(found.keys() - expected.keys() - {MANIFEST, RETIRED}):
        if is_claim(name):
            continue
        message = (
            "should have gone when the version was retired; retire it again."
            if name in manifest.files
            else "is not in the manifest."
        )
        yield Defect(kind="stray", path=name, message=message)


def _content(space: Space, manifest: Manifest) -> Iterator[Defect]:
    """Check that maps and tables can be read and have the manifest's shapes."""
    version = manifest.version
    checks: dict[str, Callable[[int], object]] = {
        MODEL: space.model,
        BACKWARD: space.backward_map,
        METRICS: space.metrics,
        FIT_REPORT: space.fit_report,
    }
    retired = space.retired(version)
    for name, check in checks.items():
        if name in manifest.files and not (retired and name in retired.removed):
            try:
                check(version)
            except BackstayError as error:
                yield Defect(kind="content", path=name, message=str(error))
    for entity in () if retired else manifest.entities:
        try:
            _check_table(replace(space.table(version, entity), digests=()))  # checked above
        except BackstayError as error:
            yield Defect(kind="content", path=f"tables/{entity}", message=str(error))


def _check_table(table: EmbeddingTable) -> None:
    stored = open_parts(
        table.files,
        table.parts,
        space=table.space,
        version=table.version,
        entity=table.entity,
    )
    found = (stored.rows, stored.dim, stored.id_type)
    expected = (table.rows, table.dim, table.id_type)
    if found != expected:
        raise CorruptError(f"should have (rows, dimension, id type) {expected}; found {found}.")
    keys = IdKeys()
    for ids, values in table.batches():
        keys.add(ids)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            id_ = ids[int(np.argmin(finite))].as_py()
            raise CorruptError(f"the vector of id {id_!r} isn't finite.")
    ids_again = (ids for ids, _ in table.batches())
    refuse_duplicates(keys.whole(), ids_again, table=f"the table of {table.entity}")
