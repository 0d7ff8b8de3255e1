"""The commit file of a table's folder, `_table.json`: the table is the parts that it lists.

It is written last. A folder of parts without it was never completed. Versions published before
there were commit files list their parts in the manifest alone. A table that is stored as a delta
has a base too: the table of an older version, some of whose rows are changed or gone.
"""

import re
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from backstay.errors import CorruptError, InputError, RegistryError
from backstay.registry.manifest import MANIFEST, Manifest
from backstay.registry.table_layout import FloatType, labels_of
from backstay.storage.documents import JsonObject, canonical_json, parse_document, parse_object
from backstay.storage.files import FileDigest, Files
from backstay.storage.ids import IdType
from backstay.storage.parquet_parts import open_part, part_names

FORMAT = 2
"""Of the commit file; a reader refuses a newer one. Format 2 is for tables stored as a delta."""

COMMIT = "_table.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.parquet")


@dataclass(frozen=True, kw_only=True)
class TablePart:
    """One file of a table."""

    name: str
    rows: int
    size: int  # bytes
    sha256: str

    @property
    def digest(self) -> FileDigest:
        """Its size and hash."""
        return FileDigest(size=self.size, sha256=self.sha256)


@dataclass(frozen=True, kw_only=True)
class TableDelta:
    """How a table differs from the table of an older version, its base."""

    base: int  # its version
    base_manifest_sha256: str
    base_rows: int
    changed_rows: int
    deleted_rows: int
    changed: tuple[TablePart, ...]  # see `overlay`
    deleted: TablePart | None  # None: no row is gone
    content: str  # see `content.ContentHash`; of all rows

    @property
    def gone(self) -> tuple[TablePart, ...]:
        """The file of the deleted rows, if there are any."""
        return (self.deleted,) if self.deleted else ()


@dataclass(frozen=True, kw_only=True)
class TableCommit:
    """The content of `_table.json`."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    format: int = 1
    space: str
    entity: str
    version: int
    dim: int
    rows: int
    id_type: IdType
    dtype: FloatType
    fingerprint: str | None = None
    conversion: JsonObject | None = None  # the report of the conversion that wrote it
    parts: tuple[TablePart, ...]  # in row order; of a delta, its new rows
    delta: TableDelta | None = None  # None: the parts are the whole table

    @property
    def stored(self) -> tuple[TablePart, ...]:
        """All files of the folder beside the commit file."""
        if self.delta is None:
            return self.parts
        return (*self.parts, *self.delta.changed, *self.delta.gone)

    def to_json(self) -> bytes:
        """The bytes of `_table.json`."""
        fields = asdict(self)
        if self.delta is None:
            del fields["delta"]
        return canonical_json(fields, what="a table's commit file")


_commit = TypeAdapter(TableCommit)


def write_commit(files: Files, folder: str, commit: TableCommit, *, exclusive: bool) -> FileDigest:
    """Commit a table: its parts are on disk, and this file comes last.

    Raises InputError if another writer was first; `exclusive` says that there may be one.
    """
    path, data = _in(folder, COMMIT), commit.to_json()
    if not exclusive:
        with files.writer(path) as sink:
            sink.write(data)
    elif not files.create(path, data):
        raise InputError(
            f"another writer has just committed a table to {files.full(folder)}; it stays as it "
            "is. Name another folder for this one."
        )
    return FileDigest(size=len(data), sha256=sha256(data).hexdigest())


def read_commit(files: Files, folder: str = "") -> TableCommit | None:
    """The commit file of a folder; None where there is none.

    Raises:
        RegistryError: Its format is newer than this package.
        CorruptError: It is damaged, or names a file outside its folder.
    """
    path = _in(folder, COMMIT)
    try:
        data = files.read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_commit(data, path=files.full(path))


def parse_commit(data: bytes, *, path: str) -> TableCommit:
    """The content of a commit file; `path` is for messages. Raises like `read_commit`."""
    found = parse_object(data, path=path).get("format")
    if isinstance(found, int) and found > FORMAT:
        raise RegistryError(
            f"{path} has format {found}; this Backstay reads up to {FORMAT}. Upgrade it."
        )
    commit = parse_document(_commit, data, path=path)
    for part in commit.stored:
        if not _NAME.fullmatch(part.name):
            raise CorruptError(
                f"{path} must list Parquet files of its own folder; found {part.name!r}. "
                "Restore it from a copy."
            )
    rows, delta = sum(part.rows for part in commit.parts), commit.delta
    if delta is not None:
        rows += delta.base_rows - delta.deleted_rows
    if rows != commit.rows:
        raise CorruptError(
            f"{path} counts {commit.rows} rows; its parts sum to {rows}. Restore it from a copy."
        )
    return commit


def table_parts(files: Files) -> tuple[tuple[str, ...], TableCommit | None]:
    """The parts of a table in row order, and its commit file if there is one.

    A single file is its own part. A folder with a commit file is the parts that this lists; a
    folder of other people's Parquet files is all of them, sorted by name.

    Raises:
        InputError: There is no Parquet file, or Backstay never finished writing the folder.
        CorruptError: A part that was committed is missing, or has another size.
    """
    commit = read_commit(files)
    if commit is not None:
        _check_sizes(files, commit)
        return tuple(part.name for part in commit.parts), commit  # of a delta, the new rows alone
    parts = part_names(files)
    if not parts:
        raise InputError(
            f"{files.root} holds no table: expected a Parquet file, or a folder of *.parquet files."
        )
    if parts != ("",) and _is_labelled(files, parts[0]) and not _in_manifest(files, parts):
        raise InputError(
            f"{files.root} was never committed: it lacks {COMMIT}, which Backstay writes last. "
            "Its writer was killed or is still at work. Repeat its command, or remove the folder."
        )
    return parts, None


def _check_sizes(files: Files, commit: TableCommit) -> None:
    found = files.find("")
    for part in commit.stored:
        if found.get(part.name) != part.size:
            size = found.get(part.name)
            raise CorruptError(
                f"{files.full(part.name)} must have {part.size} bytes, as {COMMIT} says; "
                f"{'it is missing' if size is None else f'found {size}'}. Restore the table from "
                "a copy, or write it again."
            )


def _is_labelled(files: Files, part: str) -> bool:
    with open_part(files, part) as file:
        return bool(labels_of(file.schema_arrow, files.full(part)))


def _in_manifest(files: Files, parts: tuple[str, ...]) -> bool:
    """Whether the folder is `tables/<entity>` of a published version that lists these parts."""
    root = PurePosixPath(files.root)
    if root.parent.name != "tables":
        return False
    version = type(files)(files.fs, str(root.parents[1]))
    try:
        manifest = Manifest.from_json(version.read(MANIFEST), path=version.full(MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return manifest.parts(root.name) == tuple(f"tables/{root.name}/{part}" for part in parts)


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}".lstrip("/")
