"""What killed and finished processes left in a registry: found first, removed on request.

A file that a manifest names is never removed. Files of a number that is not published are removed
only under a claim of its own, so that nobody publishes them meanwhile.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Literal

from backstay.errors import RegistryError
from backstay.registry.claims import is_claim, new_nonce
from backstay.registry.compacted import FULL, read_record
from backstay.registry.manifest import MANIFEST
from backstay.registry.staging import StagedDraft, staged_drafts
from backstay.registry.store import Registry, Space
from backstay.storage.files import TEMPORARY, Files, open_files
from backstay.storage.processes import is_running

_log = logging.getLogger("backstay.registry")

Kind = Literal["staging", "run", "attempt", "compaction", "temporary", "cache"]


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """A file, or a folder with all its files, that nothing will read again."""

    kind: Kind
    path: str  # in full
    size: int  # bytes
    why: str


def find_garbage(
    registry: Registry, *, older_than: timedelta, cache: str | Path | None = None
) -> list[Garbage]:
    """Everything that `remove_garbage` would remove.

    Args:
        registry: The registry.
        older_than: Age from which something without a living owner counts as abandoned. What
            belongs to a published version is garbage at any age.
        cache: The look-up service's folder of copies of this registry's tables.
    """
    search = _Search(registry.files, datetime.now(UTC) - older_than)
    found = [*search.temporaries()]
    for name in registry.files.folders(""):
        if not name.startswith("."):
            found += search.space(Space(registry.files, name, registry.uri))
    if cache is not None:
        found += _caches(registry, open_files(cache))
    return found


def remove_garbage(registry: Registry, found: list[Garbage]) -> int:
    """Remove what `find_garbage` found; the bytes freed."""
    freed = 0
    for garbage in found:
        files = open_files(garbage.path) if garbage.kind == "cache" else registry.files
        path = garbage.path.removeprefix(files.root).lstrip("/")
        if garbage.kind == "attempt":
            name, _, version = PurePosixPath(path).parts
            if not _remove_attempt(Space(files, name, registry.uri), int(version)):
                _log.warning("%s is left alone: somebody publishes it now", garbage.path)
                continue
        else:
            files.remove(path)
        freed += garbage.size
        _log.info("removed %s, %d bytes: %s", garbage.path, garbage.size, garbage.why)
    return freed


def _remove_attempt(space: Space, version: int) -> bool:
    """Remove the files of a number that is not published; False if it is claimed meanwhile."""
    log, nonce = space.claims(version), new_nonce()
    try:
        if (claim := space.claim(version)) is not None:
            space.release_claim(version)
            _log.info("released the claim of %s", claim.holder)
        mine = log.take(f"gc-{nonce}", nonce=nonce)
    except RegistryError:
        return False
    if mine.nonce != nonce:
        return False
    published = space.files.exists(space.path(version, MANIFEST))
    for file in () if published else space.files.find(space.path(version)):
        if not is_claim(file):
            space.files.remove(space.path(version, file))
    log.release(mine)
    return not published


@dataclass(frozen=True)
class _Search:
    files: Files
    before: datetime  # what was changed later is not abandoned

    def temporaries(self) -> Iterator[Garbage]:
        """Half-written files of killed writers."""
        for name, size in self.files.find(TEMPORARY).items():
            yield from self._abandoned(f"{TEMPORARY}/{name}", size)

    def space(self, space: Space) -> Iterator[Garbage]:
        """Staged files and runs of published versions, and abandoned ones."""
        published = _published_runs(space)
        if published is not None:  # else a manifest can't be read: what is finished is not known
            yield from self._staging(space, published)
            yield from self._runs(space, {run for run, _ in published})
        yield from self._attempts(space)
        yield from self._compactions(space)

    def _compactions(self, space: Space) -> Iterator[Garbage]:
        """Whole tables that killed processes began to write in the place of a delta."""
        for version in self.files.folders(f"{space.name}/versions"):
            tables = f"{space.name}/versions/{version}/tables"
            for entity in self.files.folders(tables):
                for name in filter(FULL.fullmatch, self.files.folders(f"{tables}/{entity}")):
                    path = f"{tables}/{entity}/{name}"
                    if self._is_old(path) and not self._leads_to(f"{tables}/{entity}", name):
                        size = sum(self.files.find(path).values())
                        why = f"a compaction was given up on {self._changed(path):%F %H:%M}"
                        yield Garbage(
                            kind="compaction", path=self.files.full(path), size=size, why=why
                        )

    def _leads_to(self, folder: str, name: str) -> bool:
        """Whether a table's folder has a record of a compaction that may lead to `name`."""
        try:
            record = read_record(self.files, folder)
        except RegistryError as error:
            _log.warning("%s is left alone: %s", self.files.full(folder), error)
            return True
        return record is not None and record.folder == name

    def _attempts(self, space: Space) -> Iterator[Garbage]:
        """Files of numbers that were claimed and never published."""
        for name in self.files.folders(f"{space.name}/versions"):
            path = f"{space.name}/versions/{name}"
            if not name.isdecimal() or self.files.exists(f"{path}/{MANIFEST}"):
                continue
            placed = [size for file, size in self.files.find(path).items() if not is_claim(file)]
            claim = space.claim(int(name))
            if claim and (claim.state == "committed" or is_running(claim)):
                continue  # it will be finished
            if (placed or claim) and self._is_old(path):
                why = f"nobody has gone on publishing it since {self._changed(path):%F %H:%M}"
                yield Garbage(kind="attempt", path=self.files.full(path), size=sum(placed), why=why)

    def _staging(self, space: Space, published: set[tuple[str, int]]) -> Iterator[Garbage]:
        for draft in staged_drafts(space):
            path = draft.location.removeprefix(self.files.root).lstrip("/")
            if draft.owner and is_running(draft.owner):
                continue
            if _is_committed(space, draft):
                continue  # its files will be placed
            if draft.version is not None and (draft.run_id, draft.version) in published:
                why = f"run {draft.run_id} has published version {draft.version}"
            elif self._is_old(path):
                why = f"run {draft.run_id} has staged nothing since {self._changed(path):%F %H:%M}"
            else:
                continue
            yield Garbage(kind="staging", path=draft.location, size=draft.size, why=why)

    def _runs(self, space: Space, finished: set[str]) -> Iterator[Garbage]:
        for run in self.files.folders(f"{space.name}/runs"):
            path = f"{space.name}/runs/{run}"
            if run in finished:
                why = f"run {run} has published its version"
            elif self._is_old(path):
                why = f"run {run} has saved no checkpoint since {self._changed(path):%F %H:%M}"
            else:
                continue
            size = sum(self.files.find(path).values())
            yield Garbage(kind="run", path=self.files.full(path), size=size, why=why)

    def _abandoned(self, path: str, size: int) -> Iterator[Garbage]:
        if self._is_old(path):
            why = f"a writer left it half-written on {self._changed(path):%F %H:%M}"
            yield Garbage(kind="temporary", path=self.files.full(path), size=size, why=why)

    def _is_old(self, path: str) -> bool:
        return self._changed(path) < self.before

    def _changed(self, path: str) -> datetime:
        """When the newest file under a path was written."""
        names = [f"{path}/{name}" for name in self.files.find(path)] or [path]
        times = [self.files.modified(name) for name in names if self.files.exists(name)]
        return max(times, default=datetime.min.replace(tzinfo=UTC))


def _is_committed(space: Space, draft: StagedDraft) -> bool:
    """Whether a commit that is not finished names the draft's files."""
    claim = None if draft.version is None else space.claim(draft.version)
    if claim is None or claim.state != "committed":
        return False
    folder = f"{space.name}/staging/{claim.run_id}/{claim.staging}"
    return draft.location == space.files.full(folder)


def _published_runs(space: Space) -> set[tuple[str, int]] | None:
    try:
        return {(space.manifest(version).run_id, version) for version in space.versions()}
    except RegistryError as error:
        _log.warning("%s is left alone: %s", space.name, error)
        return None


def _caches(registry: Registry, cache: Files) -> Iterator[Garbage]:
    """Copies of tables of spaces that are not in the registry any more."""
    kept = set(registry.spaces())
    for space in cache.folders(""):
        if space not in kept:
            size = sum(cache.find(space).values())
            why = f"there is no space {space} any more"
            yield Garbage(kind="cache", path=cache.full(space), size=size, why=why)
