"""Cutting a conversion into parts: files of the output, each of some rows of the input."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from backstay.compat.maps import BackwardMap
from backstay.engines.conversion.input import ConvertInput, RowGroup
from backstay.engines.conversion.rows import Piece, RowReader, Rows
from backstay.storage.documents import canonical_json

PART_BYTES = (16 << 20, 128 << 20)
"""Least and most bytes of a part. Between them a table has about PARTS parts."""

PARTS = 64
GROUP_BYTES = 32 << 20  # of a row group of the output, which is held in memory
BATCH_BYTES = 8 << 20  # converted at once
_PROBE_ROWS = 64

_DECODING = 0.25
"""Share of a part's work that is reading and decoding it."""

_MOST_SHARES = 4  # of a split row group, each decoded from the row group's beginning

Part = tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many rows make a batch, a row group and a part."""

    row_bytes: int  # of a row in memory: the longest vector, and all other columns
    extra_bytes: int  # the part of it that is beside id and vector
    batch_rows: int
    group_rows: int
    part_rows: int
    split_rows: int  # a longer row group is split among parts


def sizes(table: ConvertInput, chains: Sequence[BackwardMap]) -> Sizes:
    """Rows by bytes, from the footers and from the first rows, decoded."""
    vector = 4 * max(max(chain.matrix.shape) for chain in chains)
    extra = max(_stored_extra(table), _decoded_extra(table))
    row = vector + extra
    least, most = PART_BYTES
    part_bytes = min(max(table.rows * row // PARTS, least), most)
    group_rows = max(1, min(GROUP_BYTES, part_bytes) // row)
    batch_rows = max(1, min(BATCH_BYTES // row, group_rows))
    group_rows -= group_rows % batch_rows
    return Sizes(
        row_bytes=row,
        extra_bytes=extra,
        batch_rows=batch_rows,
        group_rows=group_rows,
        part_rows=max(group_rows, part_bytes // row // group_rows * group_rows),
        split_rows=max(group_rows, most // row),
    )


def _stored_extra(table: ConvertInput) -> int:
    """Bytes of a row beside its vector by the footers, in the row group where it is widest."""
    type_ = table.schema.field(table.embedding_column).type
    width: int = (
        type_.byte_width
        if pa.types.is_fixed_size_binary(type_)
        else type_.value_type.bit_width // 8 * table.dim
    )
    rows = [group.size // group.rows - width for group in table.groups if group.rows]
    return max([0, *rows])


def _decoded_extra(table: ConvertInput) -> int:
    """Bytes of a row beside its vector in memory, by the first rows of the table."""
    with RowReader(table, batch_rows=_PROBE_ROWS) as reader:
        for group in table.groups[:1] if table.extra_columns else ():
            stop = min(group.rows, _PROBE_ROWS)
            piece = Piece(group.path, (group.index,), (group.rows,), 0, stop, 0)
            for found in reader.read(piece):
                if isinstance(found, Rows) and len(found.batch):
                    extra = found.batch.select(list(table.extra_columns))
                    return int(extra.nbytes // len(extra))
    return 0


def cut(table: ConvertInput, size: Sizes) -> list[Part]:
    """Parts of about `part_rows` rows, in row order; one empty part for a table without rows.

    Row groups are kept whole, unless one is longer than `split_rows`.
    """
    parts: list[list[RowGroup | Piece]] = [[]]
    filled = 0
    for piece in _pieces(table, size):
        rows = piece.stop - piece.start if isinstance(piece, Piece) else piece.rows
        if filled and filled + rows > size.part_rows:
            parts.append([])
            filled = 0
        parts[-1].append(piece)
        filled += rows
    return [tuple(_joined(part)) for part in parts]


def _pieces(table: ConvertInput, size: Sizes) -> Iterator[RowGroup | Piece]:
    """Row groups, and pieces of those longer than `split_rows`."""
    for group in table.groups:
        if group.rows <= size.split_rows:
            yield group
            continue
        for start in range(0, group.rows, size.part_rows):
            stop = min(start + size.part_rows, group.rows)
            first_row = group.first_row + start
            yield Piece(group.path, (group.index,), (group.rows,), start, stop, first_row)


def _joined(pieces: Sequence[RowGroup | Piece]) -> Iterator[Piece]:
    """Pieces with consecutive whole row groups of a file as one."""
    run: list[RowGroup] = []
    for piece in (*pieces, None):
        if run and not (isinstance(piece, RowGroup) and piece.path == run[0].path):
            rows = tuple(group.rows for group in run)
            groups = tuple(group.index for group in run)
            yield Piece(run[0].path, groups, rows, 0, sum(rows), run[0].first_row)
            run = []
        if isinstance(piece, RowGroup):
            run.append(piece)
        elif piece is not None:
            yield piece


def runs(parts: Sequence[tuple[int, Part]], workers: int) -> list[list[tuple[int, Part]]]:
    """Parts that one worker does one after another: mostly one part.

    The parts of a split row group are one run, because each run decodes the row group from its
    beginning. Where there are fewer runs than workers, it is shared out among a few all the same.
    """
    found: dict[object, list[tuple[int, Part]]] = {}
    for number, part in parts:
        split = len(part) == 1 and part[0].stop - part[0].start < sum(part[0].rows)
        found.setdefault(part[0].key if split else number, []).append((number, part))
    shares = min(-(-workers // max(1, len(found))), _MOST_SHARES)
    cut = [share for run in found.values() for share in _shares(run, shares)]
    return sorted(cut, key=lambda run: run[0][0])


def _shares(run: list[tuple[int, Part]], shares: int) -> Iterator[list[tuple[int, Part]]]:
    """A run in shares that take about as long: a later one is shorter, as it decodes more.

    Four shares take 0.4 times as long as one, and 1.5 times its work. More would hardly be faster.
    """
    weights = [(1 - _DECODING) ** number for number in range(shares)]
    start = 0
    for number in range(shares):
        stop = round(len(run) * sum(weights[: number + 1]) / sum(weights))
        if start < stop:
            yield run[start:stop]
        start = stop


def job_id(table: ConvertInput, chains: Sequence[BackwardMap], **options: object) -> str:
    """A hash of all that decides the output's bytes: the same job goes on after a kill."""
    content = {
        "files": {table.files.full(path): stamp for path, stamp in table.stamps.items()},
        "columns": [table.id_column, table.embedding_column, table.entity],
        "maps": [
            [c.space, c.source, c.target, hashlib.sha256(c.matrix.tobytes()).hexdigest()]
            for c in chains
        ],
        "sizes": [PART_BYTES, PARTS, GROUP_BYTES, BATCH_BYTES],
        **options,
    }
    return hashlib.sha256(canonical_json(content, what="a conversion")).hexdigest()[:16]
