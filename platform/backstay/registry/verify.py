"""Checking a version against its manifest, byte by byte, and its content against its dimensions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from backstay.errors import BackstayError, CorruptError, NotFoundError, RegistryError
from backstay.registry.claims import is_claim
from backstay.registry.compacted import is_compaction
from backstay.registry.content import ContentHash
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
from backstay.registry.stored import compacted_files, read_published
from backstay.registry.tables import EmbeddingTable
from backstay.storage.digests import check_file
from backstay.storage.ids import id_keys
from backstay.storage.keys import KeyFile, refuse_duplicates


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
    if not retired:
        try:
            expected |= compacted_files(space, manifest)
        except BackstayError as error:
            yield Defect(kind="changed", path="tables", message=str(error))
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
        if is_claim(name) or is_compaction(name):  # of which one may be at work; gc removes others
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
            commit = read_published(space, manifest, entity)
            delta = commit.delta if commit else None
            table = replace(space.table(version, entity), digests=())  # checked above
            _check_table(table, content=delta.content if delta else None)
        except BackstayError as error:
            yield Defect(kind="content", path=f"tables/{entity}", message=str(error))


def _check_table(table: EmbeddingTable, *, content: str | None) -> None:
    """Read all rows. `content`: the hash of the rows of a table that was published as a delta."""
    keys, found = KeyFile(), ContentHash()
    for ids, values in table.batches():
        keys.append(id_keys(ids))
        if content is not None:
            found.add((ids, values))
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            id_ = ids[int(np.argmin(finite))].as_py()
            raise CorruptError(f"the vector of id {id_!r} isn't finite.")
    if keys.rows != table.rows:
        raise CorruptError(f"should have {table.rows} rows; found {keys.rows}.")
    if content is not None and found.hexdigest() != content:
        raise CorruptError(
            f"should have rows with the hash {content}; found {found.hexdigest()}. The table is "
            "read out of other rows than were published: restore its base from a copy."
        )
    refuse_duplicates(keys, table.id_batches(), table=f"the table of {table.entity}")
