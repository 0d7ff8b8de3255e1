"""Checking a version against its manifest, byte by byte, and its content against its dimensions."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from backstay.errors import BackstayError, CorruptError, NotFoundError
from backstay.registry.manifest import (
    BACKWARD,
    CLAIM,
    FIT_REPORT,
    MANIFEST,
    METRICS,
    MODEL,
    RETIRED,
    Manifest,
)
from backstay.registry.store import Space
from backstay.registry.tables import EmbeddingTable, open_parts
from backstay.storage.files import Files
from backstay.storage.ids import IdKeys, refuse_duplicates

_CHUNK = 8 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One difference between a version and what was published."""

    kind: Literal["missing", "changed", "stray", "parent", "content"]
    path: str  # within the version's folder
    message: str


def verify(space: Space, version: int) -> list[Defect]:
    """All differences between a version and what was published; empty if there is none."""
    try:
        manifest = space.manifest(version)
    except CorruptError as error:
        return [Defect(kind="changed", path=MANIFEST, message=str(error))]
    defects = [*_manifest(space, manifest, version), *_files(space, manifest, version)]
    if not defects:  # the content of files that were changed later is not checked
        defects += _content(space, manifest)
    return defects


def _manifest(space: Space, manifest: Manifest, version: int) -> Iterator[Defect]:
    """Check that the manifest is this version's and unchanged, and all hashes of parents hold."""
    if (manifest.space, manifest.version) != (space.name, version):
        message = f"is the manifest of {manifest.space} version {manifest.version}."
        yield Defect(kind="changed", path=MANIFEST, message=message)
        return
    if space.files.read(space.path(version, MANIFEST)) != manifest.to_json():
        message = "has other bytes than Backstay writes for it: it was edited."
        yield Defect(kind="changed", path=MANIFEST, message=message)
    child = manifest
    while child.parent is not None:
        try:
            parent = space.manifest(child.parent)
        except (CorruptError, NotFoundError) as error:
            yield Defect(kind="parent", path=MANIFEST, message=str(error))
            return
        if parent.sha256 != child.parent_manifest_sha256:
            message = (
                f"version {child.version} was published on a version {child.parent} whose manifest "
                f"had SHA-256 {child.parent_manifest_sha256}; found {parent.sha256}."
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
        elif found[name] != entry.size:
            message = f"should have {entry.size} bytes; found {found[name]}."
            yield Defect(kind="changed", path=name, message=message)
        elif (actual := _sha256(space.files, space.path(version, name))) != entry.sha256:
            message = f"should have SHA-256 {entry.sha256}; found {actual}."
            yield Defect(kind="changed", path=name, message=message)
    for name in sorted(found.keys() - expected.keys() - {MANIFEST, CLAIM, RETIRED}):
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
            _check_table(space.table(version, entity))
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


def _sha256(files: Files, path: str) -> str:
    digest = hashlib.sha256()
    with files.source(path) as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
