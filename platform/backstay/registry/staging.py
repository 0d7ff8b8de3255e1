"""The files that a process has staged for a version, out of readers' sight.

staging/<run_id>/<process>/staged.json     lists the complete files; others are leftovers
                           files/…         laid out as the version will be

Every process writes into a folder of its own. A restarted run takes over what an ended process of
the same run and host left; what a process of another host staged stays untouched.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter

from backstay.errors import RegistryError
from backstay.registry.delta_writer import write_delta
from backstay.registry.fingerprint import build_id
from backstay.registry.space_files import SpaceFiles
from backstay.registry.stored import Base, table_of
from backstay.registry.table_commit import COMMIT, parse_commit
from backstay.registry.table_writer import TableOf, write_parts
from backstay.registry.tables import Batch, EmbeddingTable
from backstay.storage.documents import parse_sealed, seal
from backstay.storage.files import FileDigest, Files
from backstay.storage.processes import ProcessIdentity, is_dead, this_process

_log = logging.getLogger("backstay.registry")


@dataclass(frozen=True, kw_only=True)
class _Staged:
    """The content of `staged.json`."""

    version: int
    build: str
    owner: ProcessIdentity
    time: str  # UTC, ISO 8601
    files: dict[str, FileDigest]  # path within the version


_staged = TypeAdapter(_Staged)


@dataclass(frozen=True, kw_only=True)
class StagedDraft:
    """A draft that is staged and not published."""

    run_id: str
    version: int | None  # None where nothing of it is complete
    size: int  # bytes
    location: str
    owner: ProcessIdentity | None = None  # None where nothing of it is complete
    time: str | None = None  # of the last change, UTC


class StagedFiles:
    """The staged files of one process. Every change is on disk when its method returns."""

    def __init__(self, space: SpaceFiles, *, version: int, run_id: str) -> None:
        self._files = space.files
        self._me = this_process()
        run = f"{space.name}/staging/{run_id}"
        self.key = _process_key(self._me)  # the folder's name
        self._folder = f"{run}/{self.key}"
        self._space, self._version = space, version
        self.complete: Mapping[str, FileDigest] = {}
        left = [
            (folder, staged)
            for folder, staged in _folders(space, run)
            if staged and is_dead(staged.owner)  # this process counts
        ]
        for folder, staged in left:
            if staged.version != version:
                raise RegistryError(
                    f"run {run_id} has staged version {staged.version} of {space.name} in "
                    f"{self._files.full(folder)}, not version {version}. Use another run id, or "
                    "discard that draft first."
                )
        own = next((staged for folder, staged in left if folder == self._folder), None)
        last = own or max((staged for _, staged in left), key=lambda s: s.time, default=None)
        self.build = last.build if last else _new_build(space, version, run_id)
        self._begun = own is not None
        if own:
            self.complete = own.files
        elif last:
            self._take_over(next(folder for folder, staged in left if staged is last), last)
        for folder, _ in left:
            if folder != self._folder:
                _remove(self._files, folder)

    @property
    def location(self) -> str:
        """The full path of the folder."""
        return self._files.full(self._folder)

    def path(self, name: str) -> str:
        """A staged file, or a folder of them, as a path in the registry's files."""
        return f"{self._folder}/files/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Stage a small file."""
        if not self._begun:
            self._save({})  # names the owner before anything is written
        with self._files.writer(self.path(name)) as sink:
            sink.write(data)
        self._save({**self.complete, name: sink.digest})

    def write_table(
        self, entity: str, batches: Iterable[Batch], *, part_rows: int | None, base: Base | None
    ) -> None:
        """Stage the table of an entity, as a delta of `base` where few rows differ.

        Errors as in `write_table_parts`.
        """
        folder = f"tables/{entity}"
        kept = {k: v for k, v in self.complete.items() if not k.startswith(f"{folder}/")}
        self._save(kept)
        self._files.remove(self.path(folder))
        try:
            of: TableOf = {"space": self._space.name, "entity": entity, "version": self._version}
            where = self._files, self.path(folder)
            written = (
                write_parts(*where, batches, part_rows=part_rows, build=self.build, **of)
                if base is None
                else write_delta(
                    *where, batches, base=base, part_rows=part_rows, build=self.build, **of
                )
            )
        except BaseException:
            if not kept:
                self.clear()
            raise
        self._files.sync(self.path(folder))
        self._save({**kept, **{f"{folder}/{name}": e for name, e in written.files.items()}})
        _log.info("staged %d rows of %s in %d files", written.rows, entity, len(written.files))

    def tables(self) -> list[EmbeddingTable]:
        """The staged tables, by name; CorruptError where a base is not there any more."""
        names = sorted(name for name in self.complete if name.endswith(f"/{COMMIT}"))
        folders = [self.path(name.removesuffix(f"/{COMMIT}")) for name in names]
        commits = [
            parse_commit(self._files.read(self.path(name)), path=self._files.full(self.path(name)))
            for name in names
        ]
        return [
            table_of(self._space, commit, folder)
            for commit, folder in zip(commits, folders, strict=True)
        ]

    def check(self) -> None:
        """RegistryError unless every complete file has the size that it was written with."""
        sizes = self._files.find(f"{self._folder}/files")
        for name, entry in self.complete.items():
            if sizes.get(name) != entry.size:
                raise RegistryError(
                    f"{self._files.full(self.path(name))} should have {entry.size} bytes; found "
                    f"{sizes.get(name, 'no such file')}. Write it again and publish again."
                )

    def clear(self) -> None:
        """Remove everything."""
        if self._begun:
            self._save({})
        _remove(self._files, self._folder)
        self._begun = False

    def _take_over(self, folder: str, staged: _Staged) -> None:
        """Make the complete files of an ended process this one's."""
        taken = {}
        for name, digest in staged.files.items():
            with suppress(FileNotFoundError):  # another process of this run took it
                self._files.place(f"{folder}/files/{name}", self.path(name))
                taken[name] = digest
        self._files.sync(self._folder)
        self._save(taken)

    def _save(self, complete: Mapping[str, FileDigest]) -> None:
        self.complete = complete
        staged = _Staged(
            version=self._version,
            build=self.build,
            owner=self._me,
            time=datetime.now(UTC).isoformat(),
            files=dict(complete),
        )
        self._files.write(f"{self._folder}/staged.json", seal(asdict(staged), what="staged.json"))
        self._begun = True


def staged_drafts(space: SpaceFiles) -> list[StagedDraft]:
    """The drafts that are not published: of runs in progress, refused or dead."""
    return [
        StagedDraft(
            run_id=run_id,
            version=staged.version if staged else None,
            size=sum(space.files.find(folder).values()),
            location=space.files.full(folder),
            owner=staged.owner if staged else None,
            time=staged.time if staged else None,
        )
        for run_id in space.files.folders(f"{space.name}/staging")
        for folder, staged in _folders(space, f"{space.name}/staging/{run_id}")
    ]


def _folders(space: SpaceFiles, run: str) -> Iterator[tuple[str, _Staged | None]]:
    """The folders that processes of a run staged into; None where nothing is complete."""
    for process in space.files.folders(run):
        path = f"{run}/{process}/staged.json"
        try:
            data = space.files.read(path)
        except FileNotFoundError:
            if space.files.find(f"{run}/{process}"):
                yield f"{run}/{process}", None
            continue
        yield f"{run}/{process}", parse_sealed(_staged, data, path=space.files.full(path))


def _process_key(process: ProcessIdentity) -> str:
    identity = f"{process.host} {process.pid} {process.started}"
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def _new_build(space: SpaceFiles, version: int, run_id: str) -> str:
    parent = space.find_manifest(version - 1) if version else None
    return build_id(space.name, version, run_id, parent.sha256 if parent else None)


def _remove(files: Files, folder: str) -> None:
    files.remove(f"{folder}/files")
    files.remove(folder)  # last: until then staged.json names the owner of what is left
