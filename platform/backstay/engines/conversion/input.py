"""The input of a conversion: any Parquet dataset with an id column and an embedding column."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from backstay.engines.conversion.columns import check_columns, check_version, column_list
from backstay.engines.conversion.hive import hive_fields
from backstay.engines.conversion.source import Source, Stamps, stamps
from backstay.errors import InputError
from backstay.registry.labels import check_labels
from backstay.registry.overlay import Overlay
from backstay.registry.table_layout import ENTITY, labels_of
from backstay.storage.files import Files
from backstay.storage.ids import IdType
from backstay.storage.parquet_parts import open_part

_FOOTERS_AT_ONCE = 8


@dataclass(frozen=True)
class RowGroup:
    """A row group of the input."""

    path: str
    index: int  # in its file
    rows: int  # of a base, those that are not deleted
    first_row: int  # in the table
    size: int  # bytes of all columns, decompressed
    base_row: int = 0  # in the base, where the input is stored as a delta


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
    schema: pa.Schema  # of every part and then the columns in folders' names, without metadata
    hive: tuple[pa.Field, ...]  # the columns in folders' names
    id_column: str
    embedding_column: str
    id_type: IdType
    dim: int
    entity: str
    unreadable: tuple[Unreadable, ...] = ()
    overlay: Overlay | None = None  # of the groups of a base
    base_parts: tuple[str, ...] = ()

    def base_row(self, path: str, group: int) -> int | None:
        """The row of the base at which a row group begins; None where it is not of a base."""
        if path not in self.base_parts:
            return None
        return next(g.base_row for g in self.groups if (g.path, g.index) == (path, group))

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


def survey(
    source: Source,
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
    command: Callable[[int], str | None],
) -> ConvertInput:
    """Read all footers and check columns and labels.

    Args:
        source: From `stored_table` or `dataset`.
        space: The space the vectors must live in.
        version: The version they must have.
        fingerprint: The fingerprint that a table of an entity has in the registry's build.
        dim: D_version.
        entity: The entity of the ids; by default the table's label, else the file's name.
        id_column: The column of ids.
        embedding_column: The column of vectors.
        assume_version: The version of a table without a label of it.
        keep_corrupt: List files that aren't Parquet instead of refusing them.
        command: The command that converts from another version; None if there is none.

    Raises:
        InputError: A part is no Parquet file, has other columns, or is labelled as another version.
    """
    files, parts = source.files, source.parts
    base_parts = source.base.parts if source.base else ()
    overlay = source.delta.overlay if source.delta else None
    if overlay is not None:  # its pages have checksums, as those of the parts
        overlay = replace(overlay, digests={})
    marks = stamps(files, parts + (overlay.paths if overlay else ()))
    base_row = 0
    groups: list[RowGroup] = []
    unreadable: list[Unreadable] = []
    first: pa.Schema | None = None
    label = ""
    first_row = 0
    hive = hive_fields(parts)
    for path, footer in zip(parts, _footers(files, parts), strict=True):
        full = files.full(path)
        if isinstance(footer, InputError):
            if source.delta or not keep_corrupt:  # rows of a base are counted
                raise footer
            unreadable.append(Unreadable(full, None, 0, str(footer)))
            continue
        found, metadata = footer
        labels = labels_of(found, full)
        hive = tuple(field for field in hive if field.name not in found.names)
        found = pa.schema([*found, *hive])
        if first is None:
            first = found
            check_version(
                _of_table(labels, path, source),
                full,
                assumed=assume_version,
                space=space,
                version=version,
                command=command,
            )
            id_type = check_columns(found, full, id_column, embedding_column, dim)
            label = entity or labels.get(ENTITY) or PurePosixPath(full).stem
        _check_labels(
            labels,
            path,
            source=source,
            space=space,
            version=version,
            entity=label,
            fingerprint=fingerprint(label),
        )
        if found.names != first.names or found.types != first.types:
            raise InputError(
                f"{full} has the columns {column_list(found)}; the first part of the table has "
                f"{column_list(first)}. Make them alike or convert them apart."
            )
        laid_over = overlay if path in base_parts else None
        new = list(_row_groups(path, metadata, first_row, base_row, laid_over))
        groups += new
        first_row += sum(group.rows for group in new)
        base_row += metadata.num_rows
    if first is None:
        raise InputError(f"{files.root} holds no whole Parquet file; restore one from a copy.")
    return ConvertInput(
        files=files,
        groups=tuple(groups),
        stamps=marks,
        schema=first,
        hive=hive,
        id_column=id_column,
        embedding_column=embedding_column,
        id_type=id_type,
        dim=dim,
        entity=label,
        unreadable=tuple(unreadable),
        overlay=overlay,
        base_parts=base_parts,
    )


def _row_groups(
    path: str, metadata: pq.FileMetaData, first_row: int, base_row: int, overlay: Overlay | None
) -> Iterator[RowGroup]:
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        rows = group.num_rows if overlay is None else overlay.left(base_row, group.num_rows)
        yield RowGroup(path, index, rows, first_row, group.total_byte_size, base_row)
        first_row += rows
        base_row += group.num_rows


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


def _check_labels(
    labels: Mapping[bytes, str],
    path: str,
    *,
    source: Source,
    space: str,
    version: int,
    entity: str,
    fingerprint: str,
) -> None:
    """InputError where a part is labelled as of another version or build than its table."""
    delta, base = source.delta, source.base
    full = source.files.full(path)
    if delta is not None and base is not None and path in base.parts:
        check_labels(
            labels,
            full,
            space=space,
            version=base.version,
            entity=delta.entity,
            fingerprint=base.fingerprint,
        )
    check_labels(
        _of_table(labels, path, source),
        full,
        space=space,
        version=version,
        entity=entity,
        fingerprint=fingerprint,
    )


def _of_table(labels: Mapping[bytes, str], path: str, source: Source) -> Mapping[bytes, str]:
    """The labels that hold for the rows of a part: those of the delta that is laid over it."""
    if source.delta is None or source.base is None or path not in source.base.parts:
        return labels
    return labels_of(source.delta.schema, source.files.full(path))
