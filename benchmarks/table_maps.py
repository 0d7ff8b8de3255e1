"""Comparing tables of one's own: seconds and peak memory, against holding them in memory.

    python benchmarks/table_maps.py [--rows 600000] [--dim 256] [--sample 100000]

Both ways read the same two tables in the same run, each in a process of its own. The newer table is
the older one, rotated, with noise, in another order. "in memory" is what one would write without
Backstay: both tables whole, joined, one least-squares fit with an intercept on four fifths of the
rows, and the mean cosine on the rest; it knows no neighbours, no intervals and one map. Memory is
the peak of the resident set, memory-mapped pages included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from _machine import header, machine

from backstay.evaluation.table_maps.compare import compare_tables

WAYS = ("in memory", "backstay")
BATCH = 65_536


def prepare(folder: Path, *, rows: int, dim: int) -> None:
    """Write v0.parquet and v1.parquet, whose vectors have a spectrum that falls."""
    rng = np.random.default_rng(0)
    spread = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    vectors = rng.standard_normal((rows, dim), np.float32) * spread
    for version in range(2):
        if version:
            vectors = vectors @ turn + 0.03 * rng.standard_normal((rows, dim), np.float32)
        order = rng.permutation(rows)
        ids = pa.array([f"item-{n}" for n in order])
        flat = pa.array(vectors[order].reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, dim)
        path = folder / f"v{version}.parquet"
        pq.write_table(pa.table({"id": ids, "embedding": column}), path, row_group_size=BATCH)


def in_memory(older: Path, newer: Path) -> float:
    """The mean cosine of a least-squares map."""
    old, new = (pq.read_table(path) for path in (older, newer))
    new = new.take(pc.index_in(old["id"], new["id"]))
    y, x = (
        table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        for table in (old, new)
    )
    fit = len(x) * 4 // 5
    design = np.column_stack([x, np.ones(len(x), np.float32)])
    mapped = design[fit:] @ np.linalg.lstsq(design[:fit], y[:fit])[0]
    lengths = np.linalg.norm(mapped, axis=1) * np.linalg.norm(y[fit:], axis=1)
    return float(((mapped * y[fit:]).sum(axis=1) / lengths).mean())


def run(folder: Path, way: str, *, sample: int) -> dict[str, float]:
    """What one way takes and finds."""
    paths = folder / "v0.parquet", folder / "v1.parquet"
    began = time.perf_counter()
    if way == "backstay":
        results = compare_tables(paths, out=folder / "run", sample=sample)
        cosine = max(score.cosine for score in results.maps)
    else:
        cosine = in_memory(*paths)
    return {
        "seconds": time.perf_counter() - began,
        "cosine": cosine,
        "peak": peak_mb(),
    }


def peak_mb() -> float:
    """The most this process has held; getrusage would count its parent's share too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


def main() -> None:
    """Prepare, measure each way, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--sample", type=int, default=100_000)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(run(given.folder, given.way, sample=given.sample)))
        return
    print(header(machine("pyarrow", "numpy")))
    print(f"two tables of {given.rows:,} rows, {given.dim} dimensions, float32\n")
    print(f"{'':12}{'seconds':>10}{'peak MB':>10}{'best cosine':>14}")
    with tempfile.TemporaryDirectory(prefix="backstay-benchmark-") as folder:
        prepare(Path(folder), rows=given.rows, dim=given.dim)
        for way in WAYS:
            options = ["--way", way, "--folder", folder, "--sample", str(given.sample)]
            command = [sys.executable, __file__, *options]
            found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            print(f"{way:12}{found['seconds']:10.1f}{found['peak']:10,.0f}{found['cosine']:14.4f}")


if __name__ == "__main__":
    main()
