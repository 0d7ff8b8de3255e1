"""Batch conversion: rows per second and peak memory of Ray Data, of one process, of a bare loop.

    python benchmarks/convert.py [--rows 500000] [--dim 256] [--target-dim 128]

All three convert the same table in the same run, each in a process of its own. The bare loop is
pyarrow and numpy in ten lines, without checks, atomic output or extra columns. Seconds count from
the call: with Ray's start where Ray is used, without the caller's imports. Memory is the peak of
the proportional set size of the process and all that it started: shared memory counts once.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _machine import header, machine

from backstay.compat.maps import BackwardMap
from backstay.engines.convert import convert
from backstay.registry.store import Registry
from backstay.registry.table_writer import write_table_parts

SPACE = "movies"
BATCH = 65_536


def prepare(folder: Path, *, rows: int, dims: tuple[int, int]) -> None:
    """Publish two versions and write a table of the newer one; dims are (target, source)."""
    rng = np.random.default_rng(0)
    space = Registry(folder / "registry").space(SPACE)
    for number, dim in enumerate(dims):
        draft = space.draft(number, run_id=f"run-{number}")
        draft.write_model({}, {"w": np.zeros(1, np.float32)}, {"genre": ("a",)})
        draft.write_table("item", [(pa.array([0]), np.zeros((1, dim), np.float32))])
        if number:
            matrix = rng.normal(size=dims).astype(np.float32)
            draft.write_backward(BackwardMap(SPACE, 1, 0, matrix))
        draft.write_metrics({})
        parent = number - 1 if number else None
        draft.publish(parent=parent, method="m", config={}, dataset_fingerprint="f")
    batches = (
        (pa.array(range(n, min(n + BATCH, rows))), rng.normal(size=(min(BATCH, rows - n), dims[1])))
        for n in range(0, rows, BATCH)
    )
    floats = ((ids, values.astype(np.float32)) for ids, values in batches)
    write_table_parts(folder / "input", floats, space=SPACE, entity="item", version=1)


def bare_loop(folder: Path) -> None:
    """What one would write without Backstay."""
    matrix = Registry(folder / "registry").space(SPACE).chain(1, 0).matrix
    (folder / "bare loop").mkdir()
    for path in sorted((folder / "input").glob("*.parquet")):
        writer = None
        for batch in pq.ParquetFile(path).iter_batches(BATCH):
            values = batch.column("embedding").flatten().to_numpy().reshape(len(batch), -1)
            flat = pa.array((values @ matrix.T).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, len(matrix))
            out = pa.table({"id": batch.column("id"), "embedding": column})
            writer = writer or pq.ParquetWriter(
                folder / "bare loop" / path.name,
                out.schema,
                compression="none",
                use_dictionary=False,
            )
            writer.write_table(out)
        if writer:
            writer.close()


def run(folder: Path, way: str) -> float:
    """Seconds that one way takes."""
    began = time.perf_counter()
    if way == "bare loop":
        bare_loop(folder)
    else:
        convert(
            registry=str(folder / "registry"),
            space=SPACE,
            source=1,
            target=0,
            input=str(folder / "input"),
            output=str(folder / way),
            engine="ray" if way == "ray" else "local",
        )
    return time.perf_counter() - began


def measure(folder: Path, way: str) -> tuple[float, float]:
    """Seconds and peak memory in MB of one way, in a process of its own."""
    mark = f"BACKSTAY_BENCHMARK={folder} {way}"
    name, _, value = mark.partition("=")
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    peak = 0.0
    with subprocess.Popen(
        command, env={**os.environ, name: value}, stdout=subprocess.PIPE
    ) as child:
        while child.poll() is None:
            peak = max(peak, memory(f"{mark}\0".encode()))
            time.sleep(0.05)
        if child.returncode:
            raise SystemExit(f"{way} failed")
        output, _ = child.communicate()
        return float(json.loads(output)["seconds"]), peak


def memory(mark: bytes) -> float:
    """MB held by the processes that carry `mark` in their environment."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes():
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total / 1024


def main() -> None:
    """Prepare, measure each way, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--target-dim", type=int, default=128)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps({"seconds": run(given.folder, given.way)}))
        return
    print(header(machine("ray", "pyarrow", "numpy")))
    print(f"{given.rows:,} rows, {given.dim} → {given.target_dim} dimensions, float32\n")
    print(f"{'':12}{'seconds':>10}{'rows/s':>12}{'peak MB':>10}")
    with tempfile.TemporaryDirectory(prefix="backstay-benchmark-") as folder:
        prepare(Path(folder), rows=given.rows, dims=(given.target_dim, given.dim))
        for way in ("bare loop", "local", "ray"):
            seconds, peak = measure(Path(folder), way)
            print(f"{way:12}{seconds:10.2f}{given.rows / seconds:12,.0f}{peak:10,.0f}")


if __name__ == "__main__":
    main()
