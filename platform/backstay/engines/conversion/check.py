"""Checking a conversion before it is committed: rows are counted, and a sample is recomputed."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.engines.conversion.config import Sample
from backstay.engines.conversion.output import ConvertOutput, PartRecord
from backstay.engines.conversion.part import Conversion, Target, convert_rows
from backstay.engines.conversion.plan import Part
from backstay.engines.conversion.rows import RowReader, Rows
from backstay.errors import CorruptError, InputError
from backstay.storage.files import Files
from backstay.storage.parquet_parts import open_part

_SAMPLED_PARTS = 16
_SAMPLED_ROWS = 64  # of a part

_TOLERANCES = {"float32": 1e-4, "float16": 2e-3}
"""Largest error of a number, relative to the sum of its absolute terms. Rounding stays below."""

_LEAST_ERROR = 1e-6  # of numbers near 0, where float16 has fewer digits


def check_counts(conversion: Conversion, records: Sequence[PartRecord]) -> None:
    """InputError unless every row of the input was written or set aside."""
    read = sum(record.read for record in records)
    rows = conversion.table.rows
    kept = sum(record.set_aside for record in records)
    written = {sum(r.tables[n].rows for r in records) for n in range(len(conversion.targets))}
    if read != rows or written != {rows - kept}:
        raise InputError(
            f"the input had {rows} rows; {read} were read, {kept} set aside, and "
            f"{', '.join(map(str, sorted(written)))} written. Was it replaced meanwhile? "
            "Convert it again."
        )
    conversion.table.refuse_changed()


def check_sample(
    conversion: Conversion,
    output: ConvertOutput,
    parts: Sequence[Part],
    records: Sequence[PartRecord],
) -> tuple[Sample, ...]:
    """Read the first rows of some parts again, input and output, and recompute them in float64.

    One sample for each target; CorruptError where an id or a number differs.
    """
    chosen = np.unique(np.linspace(0, len(parts) - 1, min(len(parts), _SAMPLED_PARTS)).astype(int))
    found: list[list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]] = [
        [] for _ in conversion.targets
    ]
    for number in chosen.tolist():
        again = _first_rows(conversion, parts[number])
        if again is None:
            continue
        ids, source = again
        for at, (folder, target) in enumerate(zip(output.folders, conversion.targets, strict=True)):
            path = f"{folder}/{records[number].tables[at].name}".lstrip("/")
            found[at].append(_compare(output.files, path, target, ids, source))
    return tuple(map(_sample, found))


def _first_rows(
    conversion: Conversion, part: Part
) -> tuple[pa.Array, npt.NDArray[np.float64]] | None:
    """Ids (n,) and vectors (n, D) of a part's first good rows; None without any."""
    with RowReader(conversion.table, batch_rows=conversion.size.batch_rows) as reader:
        for found in (found for piece in part for found in reader.read(piece)):
            if isinstance(found, Rows) and len(found.batch):
                done = convert_rows(conversion, found)
                if len(done.ids):
                    rows = slice(0, _SAMPLED_ROWS)
                    return done.ids[rows], done.vectors[rows].astype(np.float64)
    return None


def _compare(
    files: Files,
    path: str,
    target: Target,
    ids: pa.Array,
    source: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Error of each number (n, D_t), and cosine of each row that has a length."""
    matrix = target.chain.matrix.astype(np.float64)
    expected = source @ matrix.T
    with open_part(files, path, read_ahead=1 << 20) as file:
        batch = next(file.iter_batches(len(ids), columns=["id", "embedding"]))
    flat = batch.column("embedding").flatten()
    written = flat.to_numpy().reshape(len(batch), -1).astype(np.float64)
    if not batch.column("id").equals(ids):
        raise CorruptError(
            f"{files.full(path)} was written with other ids than its input has; expected "
            f"{ids[0].as_py()!r} first. Convert it again, and report this."
        )
    error = np.abs(written - expected)
    tolerance = _TOLERANCES["float16" if flat.type == pa.float16() else "float32"]
    if (error > tolerance * (np.abs(source) @ np.abs(matrix).T) + _LEAST_ERROR).any():
        raise CorruptError(
            f"{files.full(path)} differs from its input times the map by up to {error.max():.1e}. "
            "Convert it again; if it stays so, check the disk and the memory of this machine."
        )
    lengths = np.linalg.norm(written, axis=1) * np.linalg.norm(expected, axis=1)
    whole = lengths > 0
    cosines = (written * expected).sum(axis=1)[whole] / lengths[whole]
    return error, cosines


def _sample(
    parts: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
) -> Sample:
    cosines = np.concatenate([np.ones(0), *(cosine for _, cosine in parts)])
    return Sample(
        rows=sum(len(error) for error, _ in parts),
        largest_error=max((float(error.max()) for error, _ in parts), default=0.0),
        least_cosine=float(cosines.min()) if len(cosines) else None,
    )
