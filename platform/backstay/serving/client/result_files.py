"""Results of look-ups as files."""

from pathlib import Path
from typing import BinaryIO, Literal, TypedDict, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from backstay.errors import UsageError
from backstay.serving import wire
from backstay.serving.client.result import LookupResult

Format = Literal["json", "csv", "npy", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)


class About(TypedDict):
    """A result without its ids and vectors."""

    space: str
    entity: str
    version: int
    source_version: int
    fingerprint: str
    source_fingerprint: str


def about(result: LookupResult) -> About:
    """What answered."""
    return {
        "space": result.space,
        "entity": result.entity,
        "version": result.version,
        "source_version": result.source_version,
        "fingerprint": result.fingerprint,
        "source_fingerprint": result.source_fingerprint,
    }


def format_of(path: Path) -> Format:
    """The format that a file's name ends with; UsageError if it is none of FORMATS."""
    for name in FORMATS:
        if path.suffix.lower() == f".{name}":
            return name
    raise UsageError(
        f"out must end in {', '.join(f'.{name}' for name in FORMATS)}, or come with --format; "
        f"found {path}."
    )


def write_result(result: LookupResult, file: BinaryIO, format_: Format) -> None:
    """Write ids and vectors: columns `id` and `e0`, `e1`, … in CSV, the vectors alone in npy."""
    match format_:
        case "json":
            file.write(document(result) + b"\n")
        case "csv":
            pacsv.write_csv(_wide(result), file)
        case "npy":
            _write_npy(result.values, file)
        case "parquet":
            pq.write_table(result.to_arrow(), file, write_page_checksum=True)


def _write_npy(values: npt.NDArray[np.generic], file: BinaryIO) -> None:
    """As np.save, which can't write to a pipe."""
    values = np.ascontiguousarray(values)
    header = np.lib.format.header_data_from_array_1_0(values)
    np.lib.format.write_array_header_1_0(file, header)
    file.write(values.reshape(-1).view(np.uint8).data)


def document(result: LookupResult) -> bytes:
    """One JSON document with the fields of the service's own."""
    return wire.dump_json(
        {
            **about(result),
            "ids": result.ids.tolist(),
            "embeddings": result.values,
            "missing": result.missing.tolist(),
            "unanswered": result.unanswered.tolist(),
        }
    )


def _wide(result: LookupResult) -> pa.Table:
    ids = result.to_arrow().column("id")
    columns = {f"e{i}": pa.array(column) for i, column in enumerate(result.values.T)}
    return pa.table({"id": ids, **columns})
