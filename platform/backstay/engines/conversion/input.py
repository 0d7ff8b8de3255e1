"""The input of a conversion: any Parquet dataset with an id column and an embedding column."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from backstay.engines.conversion.vectors import check_vector_type
from backstay.errors import InputError, UsageError
from backstay.registry.store import Space
from backstay.registry.table_commit import table_parts
from backstay.registry.table_layout import ENTITY, check_labels, id_type_of, labels_of, version_of
from backstay.storage.files import Files, open_files
from backstay.storage.ids import IdType
from backstay.storage.parquet_parts import open_part

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
_FOOTERS_AT_ONCE = 8


@dataclass(frozen=True)
class RowGroup:
    """A row group of the input."""

    path: str
    index: int  # in its file
    rows: int
    first_row: int  # in the table
    size: int  # bytes of all columns, decompressed


@dataclass(frozen=True)
class Unreadable:
    """A file, or some rows of one, that can't be read."""

    file: str
    row_group: int | None  # None: the whole file
    rows: int  # 0 for a whole file, whose rows can't be counted
    reason: str


@dataclass(frozen=True, kw_only=True)
class ConvertInput:
    """A dataset to convert, surveyed by its footers. Can be pickled."""

    files: Files
    groups: tuple[RowGroup, ...]
    stamps: Stamps
    schema: pa.Schema  # of every part, without metadata
    id_column: str
    embedding_column: str
    id_type: IdType
    dim: int
    entity: str
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def rows(self) -> int:
        """The rows of all readable files."""
        return sum(group.rows for group in self.groups)

    @property
    def size(self) -> int:
        """Bytes of all columns, decompressed."""
        return sum(group.size for group in self.groups)

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """The columns beside id and embedding."""
        own = {self.id_column, self.embedding_column}
        return tuple(name for name in self.schema.names if name not in own)

    def where(self, row: int) -> str:
        """File, row group and row of a row of the table, for messages."""
        for group in self.groups:
            if row < group.first_row + group.rows:
                path = self.files.full(group.path)
                return f"{path}, row group {group.index}, row {row - group.first_row}"
        return f"row {row}"

    def refuse_changed(self) -> None:
        """InputError where a file is not the one that was surveyed."""
        found = stamps(self.files, tuple(self.stamps))
        changed = sorted(path for path in self.stamps if found.get(path) != self.stamps[path])
        if changed:
            raise InputError(
                f"{self.files.full(changed[0])} was replaced while it was being converted. "
                "Nothing is published: convert it again once it no longer changes."
            )


def stored_table(space: Space, version: int, entity: str | None) -> tuple[Files, tuple[str, ...]]:
    """The files and parts of a published table, as the input of a conversion."""
    entities = sorted(space.manifest(version).entities)
    if entity is None:
        if len(entities) != 1:
            raise UsageError(
                f"{space.name} version {version} has the tables {', '.join(entities) or 'none'}; "
                "name one by --entity, or a file by --input."
            )
        entity = entities[0]
    table = space.table(version, entity)
    return table.files, table.parts


def dataset(path: str) -> tuple[Files, tuple[str, ...]]:
    """The files and parts of a dataset by its path or URL; raises like `table_parts`."""
    files = open_files(path)
    return files, table_parts(files)[0]


def survey(
    files: Files,
    parts: tuple[str, ...],
    *,
    space: str,
    version: int,
    fingerprint: Callable[[str], str],
    dim: int,
    entity: str | None,
    id_column: str,
    embedding_column: str,
    assume_version: int | None,
    keep_corrupt: bool,
) -> ConvertInput:
    """Read all footers and check columns and labels.

    Args:
        files: Where the parts are.
        parts: Paths in `files`, in row order.
        space: The space the vectors must live in.
        version: The version they must have.
        fingerprint: The fingerprint that a table of an entity has in the registry's build.
        dim: D_version.
        entity: The entity of the ids; by default the table's label, else the file's name.
        id_column: The column of ids.
        embedding_column: The column of vectors.
        assume_version: The version of a table without a label of it.
        keep_corrupt: List files that aren't Parquet instead of refusing them.

    Raises:
        InputError: A part is no Parquet file, has other columns, or is labelled as another version.
    """
    marks = stamps(files, parts)
    groups: list[RowGroup] = []
    unreadable: list[Unreadable] = []
    first: pa.Schema | None = None
    label = ""
    first_row = 0
    for path, footer in zip(parts, _footers(files, parts), strict=True):
        full = files.full(path)
        if isinstance(footer, InputError):
            if not keep_corrupt:
                raise footer
            unreadable.append(Unreadable(full, None, 0, str(footer)))
            continue
        found, metadata = footer
        labels = labels_of(found, full)
        if first is None:
            first = found
            id_type = _check_columns(found, full, id_column, embedding_column, dim)
            label = entity or labels.get(ENTITY) or PurePosixPath(full).stem
            _check_version(labels, full, assumed=assume_version, version=version)
        check_labels(
            labels,
            full,
            space=space,
            version=version,
            entity=label,
            fingerprint=fingerprint(label),
        )
        if found.names != first.names or found.types != first.types:
            raise InputError(
                f"{full} has the columns {_columns(found)}; the first part of the table has "
                f"{_columns(first)}. Make them alike or convert them apart."
            )
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            groups.append(RowGroup(path, index, group.num_rows, first_row, group.total_byte_size))
            first_row += group.num_rows
    if first is None:
        raise InputError(f"{files.root} holds no whole Parquet file; restore one from a copy.")
    return ConvertInput(
        files=files,
        groups=tuple(groups),
        stamps=marks,
        schema=first.remove_metadata(),
        id_column=id_column,
        embedding_column=embedding_column,
        id_type=id_type,
        dim=dim,
        entity=label,
        unreadable=tuple(unreadable),
    )


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


def _footers(
    files: Files, parts: Sequence[str]
) -> Iterator[tuple[pa.Schema, pq.FileMetaData] | InputError]:
    """The schema and footer of each part, or why it has none; several are read at once."""

    def footer(path: str) -> tuple[pa.Schema, pq.FileMetaData] | InputError:
        try:
            with open_part(files, path) as file:
                return file.schema_arrow, file.metadata
        except InputError as error:
            return error

    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        yield from pool.map(footer, parts)


def _check_columns(
    schema: pa.Schema, path: str, id_column: str, embedding_column: str, dim: int
) -> IdType:
    """The type of the ids; InputError unless both columns are there and of a type we convert."""
    flags = {id_column: "--id-column", embedding_column: "--embedding-column"}
    for name, flag in flags.items():
        if schema.names.count(name) != 1:
            raise InputError(
                f"{path} must have one column {name!r}; found {_columns(schema)}. Name the right "
                f"one by {flag}."
            )
    taken = {"id", "embedding"} & (set(schema.names) - set(flags))
    if taken:
        raise InputError(
            f"{path} has a column {min(taken)!r} beside those that --id-column and "
            "--embedding-column name, and the output needs that name. Rename it first."
        )
    id_type = id_type_of(schema.field(id_column).type)
    if id_type is None:
        raise InputError(
            f"{path} must hold {id_column} as string or integer; found "
            f"{schema.field(id_column).type}."
        )
    check_vector_type(schema.field(embedding_column).type, path=path, dim=dim)
    return id_type


def _check_version(
    labels: Mapping[bytes, str], path: str, *, assumed: int | None, version: int
) -> None:
    """InputError unless the table's label, or the user, says that it is of this version."""
    label = version_of(labels, path)
    if assumed not in {None, version}:
        raise UsageError(f"assume_version must be {version}, as --from says; found {assumed}.")
    if label is None and assumed is None:
        raise InputError(
            f"{path} has no label of the version of its vectors. If they are of version {version}, "
            f"say so by --assume-version {version}."
        )


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name!r} {field.type}" for field in schema)
