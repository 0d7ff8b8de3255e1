"""Tables to convert, and conversions of them in this process and in others."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from backstay.engines.conversion import plan
from backstay.engines.conversion.config import ConvertConfig
from backstay.engines.conversion.convert import convert
from backstay.registry.store import Registry
from backstay.registry.table_writer import write_table_parts
from tests.support.builders import vector_column

DIMS = (3, 5, 8)


def vectors(rows, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def write_input(folder, values, *, ids=None, version=2, part_rows=None):
    """A labelled table of `movies`."""
    ids = pa.array(range(len(values))) if ids is None else ids
    where = {"space": "movies", "entity": "item", "version": version}
    write_table_parts(folder, [(ids, values)], part_rows=part_rows, **where)
    return folder


def write_plain(path, *, row_group_size=100, **columns):
    """One Parquet file without labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(columns.get("embedding"), np.ndarray):
        columns["embedding"] = vector_column(columns["embedding"])
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def config(registry, input_, output, *, source=2, targets=(0,), **options):
    return ConvertConfig(
        registry=str(registry),
        space="movies",
        source=source,
        targets=targets,
        input=None if input_ is None else str(input_),
        output=str(output),
        **{"assume_version": source} | options,
    )


def run(registry, input_, output, **options):
    return convert(config(registry, input_, output, **options))


def cut_small(patch, *, part=320 * 32, group=64 * 32):
    """Cut parts and row groups so small that little tables have many."""
    patch.setattr(plan, "PART_BYTES", (part, part))
    patch.setattr(plan, "GROUP_BYTES", group)


def slowly(registry, values, *, source=2, target=0):
    """One row, one number at a time, one map after another, in Python's doubles."""
    space = Registry(registry).space("movies")
    rows = [[float(x) for x in row] for row in values]
    for version in range(source, target, -1):
        matrix = space.backward_map(version).matrix.tolist()
        rows = [
            [sum(m * x for m, x in zip(line, row, strict=True)) for line in matrix] for row in rows
        ]
    return np.array(rows, np.float64).reshape(len(values), DIMS[target])


def bucket(request, monkeypatch):
    """A new folder on the S3 server, and the variables that lead there, set in this process too."""
    server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"{server.bucket()}/out", server.environment
