"""Which files a conversion reads: those of a published table, or of any Parquet dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backstay.errors import UsageError
from backstay.registry.store import Space
from backstay.registry.stored import open_delta
from backstay.registry.table_commit import table_parts
from backstay.registry.tables import EmbeddingTable
from backstay.storage.files import Files, open_files

Stamps = dict[str, tuple[int, str]]
"""Path -> size in bytes and a mark that changes with the content: ETag, or time of change."""

_MARKS = (
    "ETag",
    "etag",
    "md5Hash",
    "generation",
    "mtime",
    "LastModified",
    "created",
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files of an input; not read yet."""

    files: Files
    parts: tuple[str, ...]  # paths in `files`, in row order; the base's first
    delta: EmbeddingTable | None = None  # where the input is stored as a delta

    @property
    def base(self) -> EmbeddingTable | None:
        """The base of a delta."""
        return self.delta.base if self.delta else None


def stored_table(space: Space, version: int, entity: str | None) -> Source:
    """The files of a published table, as the input of a conversion."""
    entities = sorted(space.manifest(version).entities)
    if entity is None:
        if len(entities) != 1:
            raise UsageError(
                f"{space.name} version {version} has the tables {', '.join(entities) or 'none'}; "
                "name one by --entity, or a file by --input."
            )
        entity = entities[0]
    return _source(space.table(version, entity))


def dataset(path: str) -> Source:
    """The files of a dataset by its path or URL; raises like `table_parts`."""
    files = open_files(path)
    parts, commit = table_parts(files)
    if commit is not None and commit.delta is not None:
        return _source(open_delta(files, commit))
    return Source(files=files, parts=parts)


def _source(table: EmbeddingTable) -> Source:
    if table.base is None:
        return Source(files=table.files, parts=table.parts)
    return Source(files=table.files, parts=table.base.parts + table.parts, delta=table)


def stamps(files: Files, parts: Sequence[str]) -> Stamps:
    """Size and mark of each part, by one listing."""
    found = files.fs.find(files.root, detail=True)
    return {
        part: _stamp(info) for part in parts if (info := found.get(files.full(part))) is not None
    }


def _stamp(info: Mapping[str, object]) -> tuple[int, str]:
    mark = next((info[name] for name in _MARKS if info.get(name) is not None), "")
    size = info["size"]
    return size if isinstance(size, int) else 0, str(mark)
