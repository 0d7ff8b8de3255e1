"""Small tables of vectors whose maps are known."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.builders import vector_column


def column(vectors, kind="fixed"):
    if kind == "fixed":
        return vector_column(vectors.astype(np.float32))
    return pa.array(vectors.tolist(), pa.list_(kind))


@pytest.fixture
def save(tmp_path):
    """Write a table and return its path."""

    def write(name, ids, vectors, *, kind="fixed", metadata=None):
        table = pa.table({"id": ids, "embedding": column(vectors, kind), "title": ids})
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=100)
        return path

    return write


@pytest.fixture
def world(save):
    """Three versions of 700 words: each rotated, moved, shuffled and wider than the one before."""
    rng = np.random.default_rng(5)
    ids = np.array([f"word {n}" for n in range(700)])
    vectors = rng.standard_normal((700, 8)) * np.arange(1, 9) ** -0.5
    paths = []
    for version, dim in enumerate((8, 10, 12)):
        if version:
            turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
            vectors = np.pad(vectors, ((0, 0), (0, 2))) @ turn + 0.5
            vectors += 0.01 * rng.standard_normal(vectors.shape)
        order = rng.permutation(700)
        paths.append(save(f"v{version}.parquet", ids[order], vectors[order]))
    return paths
