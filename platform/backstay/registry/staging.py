"""The files that a run has staged for a version, out of readers' sight.

staging/<run_id>/staged.json     lists the complete files; others are leftovers
staging/<run_id>/files/…         laid out as the version will be
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from backstay.errors import RegistryError
from backstay.registry.space_files import SpaceFiles
from backstay.storage.documents import canonical_json, parse_document
from backstay.storage.files import FileDigest


@dataclass(frozen=True)
class _Staged:
    """The content of `staged.json`."""

    version: int
    files: dict[str, FileDigest]  # path within the version


_staged = TypeAdapter(_Staged)


@dataclass(frozen=True, kw_only=True)
class StagedDraft:
    """A draft that is staged and not published."""

    run_id: str
    version: int | None  # None where nothing of it is complete
    size: int  # bytes
    location: str


class StagedFiles:
    """The staged files of one run. Every change is on disk when its method returns."""

    def __init__(self, space: SpaceFiles, *, version: int, run_id: str) -> None:
        self._files = space.files
        self._folder = f"{space.name}/staging/{run_id}"
        self._version = version
        staged = _load(space, run_id)
        if staged and staged.version != version:
            raise RegistryError(
                f"run {run_id} has staged version {staged.version} of {space.name} in "
                f"{self.location}, not version {version}. Use another run id, or discard that "
                "draft first."
            )
        self.complete: Mapping[str, FileDigest] = staged.files if staged else {}

    @property
    def location(self) -> str:
        """The full path of the folder."""
        return self._files.full(self._folder)

    def path(self, name: str) -> str:
        """A staged file, or a folder of them, as a path in the registry's files."""
        return f"{self._folder}/files/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Stage a small file."""
        with self._files.writer(self.path(name)) as sink:
            sink.write(data)
        self.record({name: sink.digest})

    def record(self, digests: Mapping[str, FileDigest]) -> None:
        """Count files that have been written as complete."""
        self._save({**self.complete, **digests})

    def forget(self, folder: str) -> None:
        """Remove a folder of staged files."""
        kept = {k: v for k, v in self.complete.items() if not k.startswith(f"{folder}/")}
        if kept != self.complete:
            self._save(kept)
        self._files.remove(self.path(folder))

    def clear(self) -> None:
        """Remove everything."""
        self._files.remove(f"{self._folder}/staged.json")
        self._files.remove(self._folder)
        self.complete = {}

    def _save(self, complete: Mapping[str, FileDigest]) -> None:
        self.complete = complete
        staged = asdict(_Staged(self._version, dict(complete)))
        data = canonical_json(staged, what="staged.json")
        self._files.write(f"{self._folder}/staged.json", data)


def staged_drafts(space: SpaceFiles) -> list[StagedDraft]:
    """The drafts that are not published: of runs in progress, refused or dead."""
    found = []
    for run_id in space.files.folders(f"{space.name}/staging"):
        folder = f"{space.name}/staging/{run_id}"
        staged = _load(space, run_id)
        found.append(
            StagedDraft(
                run_id=run_id,
                version=staged.version if staged else None,
                size=sum(space.files.find(folder).values()),
                location=space.files.full(folder),
            )
        )
    return found


def _load(space: SpaceFiles, run_id: str) -> _Staged | None:
    path = f"{space.name}/staging/{run_id}/staged.json"
    try:
        data = space.files.read(path)
    except FileNotFoundError:
        return None
    return parse_document(_staged, data, path=space.files.full(path))
