"""Versions whose tables are stored as deltas."""

import numpy as np
import pyarrow as pa

from backstay.compat.maps import BackwardMap
from backstay.registry.stored import deltas
from tests.support.builders import publish

DIM = 3


def vectors(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, DIM)).astype(np.float32)


def write(space, ids, values, *, base=None, part_rows=None, batch=7, mapped=False):
    """Publish a version that has this table of items."""
    version = len(space.versions())
    draft = space.draft(version, run_id=f"run-{version}")
    starts = range(0, max(1, len(ids)), batch)
    batches = [(ids[at : at + batch], values[at : at + batch]) for at in starts]
    draft.write_table("item", batches, base=base, part_rows=part_rows)
    if mapped and version:
        matrix = np.eye(values.shape[1], dtype=np.float32)
        draft.write_backward(BackwardMap(space.name, version, version - 1, matrix))
    return publish(draft)


def edited(ids, values, *, changed=(), gone=(), new=()):
    """Ids and vectors after some changes: rows to change and to leave out, ids to add."""
    values = values.copy()
    values[list(changed)] += 1
    kept = np.setdiff1d(np.arange(len(ids)), list(gone))
    ids = [ids[row].as_py() for row in kept] + list(new)
    return pa.array(ids), np.concatenate([values[kept], np.full((len(new), DIM), 7, np.float32)])


def pair(space, *, rows=100, strings=True):
    """A whole version 0, and a version 1 stored as its delta; ids and vectors of version 1."""
    ids = pa.array([f"i{n}" for n in range(rows)] if strings else range(rows))
    values = vectors(rows)
    write(space, ids, values, part_rows=30, mapped=True)
    new = ["x", "y"] if strings else [1000, 1001]
    newer = edited(ids, values, changed=(3, 40, 99), gone=(0, 50), new=new)
    write(space, *newer, base=0, part_rows=2, mapped=True)
    return newer


def long_delta(space, *, rows=1000):
    """A version 1 that changes, deletes and adds rows of version 0; its rows in reading order."""
    ids, values = pa.array([f"i{n}" for n in range(rows)]), vectors(rows)
    write(space, ids, values, part_rows=170, batch=90)
    options = {"changed": range(5, rows, 40), "gone": range(60), "new": ["x", "y", "z"]}
    newer = edited(ids, values, **options)
    write(space, *newer, base=0, part_rows=7, batch=1000, mapped=True)
    assert "item" in deltas(space, space.manifest(1))
    return newer


def read(table, **options):
    """All rows, in reading order."""
    found = [
        (id_, vector.tobytes())
        for ids, values in table.batches(**options)
        for id_, vector in zip(ids.to_pylist(), values, strict=True)
    ]
    assert len(found) == table.rows
    return found


def rows_of(ids, values):
    """Rows in the form of `read`."""
    return [(id_, vector.tobytes()) for id_, vector in zip(ids.to_pylist(), values, strict=True)]
