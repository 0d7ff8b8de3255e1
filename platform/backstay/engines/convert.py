"""Batch conversion: a table of version k becomes a table of an older version j.

The work is cut into parts, runs of row groups of about PART_BYTES. A part is streamed from the
input through one matrix into one file of the output, so vectors never pass between processes. It is
done by this process, one part after another, or by tasks of Ray Data, which are repeated when their
worker dies. Order, bytes and memory are the same either way.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import pyarrow as pa

from backstay.compat.maps import BackwardMap
from backstay.engines.convert_part import Conversion, ConvertedPart, RowGroup, convert_part
from backstay.errors import InputError
from backstay.registry.store import Registry
from backstay.registry.table_layout import table_schema
from backstay.registry.table_writer import GROUP_BYTES
from backstay.registry.tables import EmbeddingTable, open_table
from backstay.storage.folders import new_folder
from backstay.storage.parquet_parts import open_part

_log = logging.getLogger("backstay.convert")

PART_BYTES = 128 << 20  # of vectors in a part of the output, as in a block of Ray Data
LOCAL_BYTES = 64 << 20  # of vectors; for fewer, starting Ray takes longer than the work

Engine = Literal["auto", "local", "ray"]


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """The size and speed of a conversion that is done."""

    space: str
    entity: str
    source: int  # version of the input
    target: int  # version of the output
    dims: tuple[int, int]  # of source and target
    rows: int
    parts: int
    extra_columns: tuple[str, ...]  # beside id and embedding, passed through
    engine: Literal["local", "ray"]
    seconds: float
    rows_per_second: float
    input: str
    output: str


def convert(
    *,
    registry: str,
    space: str,
    source: int,
    target: int,
    input: str,  # noqa: A002 - the word of the command line
    output: str,
    workers: int | None = None,
    engine: Engine = "auto",
) -> ConvertReport:
    """Convert a table of version `source` to the older version `target`.

    Rows keep their order; columns beside id and embedding pass through unchanged. The output is a
    table in the registry's format, labelled with the target version. A local output appears whole,
    by a rename; an output on an object store is whole once it holds `_SUCCESS`.

    Args:
        registry: The registry's root, which has the chain of maps: a path or URL.
        space: The space of the table.
        source: The version of the input.
        target: The version wanted.
        input: Parquet file or folder, or its URL: id, embedding as fixed-size list of float32.
        output: Folder or URL to write; must not hold anything yet.
        workers: Most parts done at once with Ray; by default as many as there are CPUs.
        engine: "ray", "local" for this process alone, or "auto": Ray from 64 MiB of vectors on.

    Raises:
        MapMismatchError: `target` is newer than `source`.
        NotFoundError: A version or a map of the chain isn't there.
        InputError: The input is no table of `source`, or has rows that can't be converted, which
            are counted; or `output` isn't empty. Nothing is written then.
    """
    began = time.perf_counter()
    chain = Registry(registry).space(space).chain(source, target)
    table = open_table(input, space=space, version=source, extra_columns=True)
    if table.dim != chain.matrix.shape[1]:
        raise InputError(
            f"{input} holds vectors of dimension {table.dim}; expected {chain.matrix.shape[1]}, "
            f"the dimension of {space} version {source}. Is it a table of another version?"
        )
    groups, schema = _survey(table)
    parts = _cut(groups, row_bytes=_row_bytes(chain))
    if engine == "auto":
        engine = "local" if table.rows * _row_bytes(chain) < LOCAL_BYTES else "ray"
    _log.info(
        "converting %d rows of %s from version %d to %d in %d parts (%s)",
        *(table.rows, space, source, target, len(parts)),
        "in this process" if engine == "local" else "over Ray Data",
    )
    with new_folder(output) as place:
        conversion = Conversion(
            table=table,
            chain=chain,
            schema=_out_schema(table, chain, schema),
            output=place,
            batch_rows=max(1, GROUP_BYTES // _row_bytes(chain)),
        )
        results = (
            _locally(conversion, parts)
            if engine == "local"
            else _over_ray(conversion, parts, workers)
        )
        done = _collect(results, parts=len(parts))
        place.check_parts({part.name: part.size for part in done})
    seconds = time.perf_counter() - began
    return ConvertReport(
        space=space,
        entity=table.entity,
        source=source,
        target=target,
        dims=(table.dim, chain.matrix.shape[0]),
        rows=table.rows,
        parts=len(parts),
        extra_columns=tuple(name for name in schema.names if name not in {"id", "embedding"}),
        engine=engine,
        seconds=seconds,
        rows_per_second=table.rows / seconds,
        input=str(input),
        output=str(output),
    )


def _row_bytes(chain: BackwardMap) -> int:
    """Bytes of a row's vector, before or after, whichever is longer."""
    return 4 * int(max(chain.matrix.shape))


def _survey(table: EmbeddingTable) -> tuple[list[RowGroup], pa.Schema]:
    """The row groups of a table in row order, and the schema that all its parts have."""
    groups: list[RowGroup] = []
    schema: pa.Schema | None = None
    first_row = 0
    for path in table.parts:
        with open_part(table.files, path) as file:
            found = file.schema_arrow.remove_metadata()
            schema = found if schema is None else schema
            if found.names != schema.names or found.types != schema.types:
                raise InputError(
                    f"{table.files.full(path)} has the columns {_columns(found)}; the first part "
                    f"of the table has {_columns(schema)}. Make them alike or convert them apart."
                )
            for index in range(file.num_row_groups):
                rows = file.metadata.row_group(index).num_rows
                groups.append(RowGroup(path, index, rows, first_row))
                first_row += rows
    assert schema is not None  # noqa: S101 - a table has at least one part
    return groups, schema


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _cut(groups: list[RowGroup], *, row_bytes: int) -> list[list[RowGroup]]:
    """Runs of row groups, each full at PART_BYTES; one empty run for a table without rows."""
    parts: list[list[RowGroup]] = [[]]
    filled = 0
    for group in groups:
        if filled >= PART_BYTES:
            parts.append([])
            filled = 0
        parts[-1].append(group)
        filled += group.rows * row_bytes
    return parts


def _out_schema(table: EmbeddingTable, chain: BackwardMap, schema: pa.Schema) -> pa.Schema:
    """The input's columns, with id and embedding as a table of the target version has them."""
    own = table_schema(
        chain.matrix.shape[0],
        table.id_type,
        space=chain.space,
        entity=table.entity,
        version=chain.target,
    )
    fields = [own.field(f.name) if f.name in own.names else f for f in schema]
    return pa.schema(fields, metadata=own.metadata)


def _locally(conversion: Conversion, parts: list[list[RowGroup]]) -> Iterator[ConvertedPart]:
    for number, part in enumerate(parts):
        yield convert_part(conversion, part, number=number)


def _over_ray(
    conversion: Conversion, parts: list[list[RowGroup]], workers: int | None
) -> Iterator[ConvertedPart]:
    import ray  # noqa: PLC0415 - small tables do without
    from ray.data import DataContext, TaskPoolStrategy  # noqa: PLC0415

    from backstay.engines.session import ray_session  # noqa: PLC0415

    DataContext.get_current().enable_progress_bars = False  # they'd be on stdout
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(
        logging.ERROR
    )  # a notice that they are off
    with ray_session(cpus=workers):
        rows = ray.data.range(len(parts), override_num_blocks=len(parts)).map(
            _task,
            fn_kwargs={"conversion": conversion, "parts": parts},
            compute=TaskPoolStrategy(size=workers),
            num_cpus=1,
        )
        for row in rows.iter_rows():
            yield ConvertedPart(**row)


def _task(
    row: dict[str, int], *, conversion: Conversion, parts: list[list[RowGroup]]
) -> dict[str, str | int]:
    return asdict(convert_part(conversion, parts[row["id"]], number=row["id"]))


def _collect(results: Iterator[ConvertedPart], *, parts: int) -> list[ConvertedPart]:
    """All results, in order; InputError where a row could not be converted."""
    done = []
    for part in results:
        if part.error:
            raise InputError(part.error)
        done.append(part)
        _log.info("%d of %d parts, %d rows", len(done), parts, sum(p.rows for p in done))
    done.sort(key=lambda part: part.name)
    faulty = [part for part in done if part.faulty]
    if faulty:
        raise InputError(
            f"{sum(part.faulty for part in faulty)} of {sum(part.rows for part in done)} rows "
            f"can't be converted; the first is {faulty[0].fault}. Give every row an id and a "
            "finite vector, or leave it out."
        )
    return done
