"""Batch conversion beside a bare loop and a bare copy: rows per second and peak memory.

    python benchmarks/convert.py [--rows 4000000] [--dim 256] [--target-dim 256] [--rounds 3]
        [--workers N]

Every way converts the same table, in a process of its own, and the ways take turns:

- copy        pyarrow reads and writes the same rows, without arithmetic
- bare loop   the copy, and numpy's product in between: ten lines, no checks, no atomic output
- local       `backstay convert --engine local`
- ray         the same by Ray Data on a running cluster; the start of Ray and of its workers is
              measured apart
- five maps   local, through a chain of five maps

`--workers` limits the workers of local, ray and five maps. Seconds are medians over the rounds,
without imports. Backstay forces its output to disk, the bare ways leave that to the system. Memory
is the peak of the proportional set size of the process and all that it started: shared memory
counts once.
"""

import argparse
import contextlib
import importlib
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from _machine import header, machine

from backstay.cluster.session import ray_session
from backstay.compat.maps import BackwardMap
from backstay.engines.conversion.config import ConvertConfig, Engine
from backstay.engines.conversion.convert import convert
from backstay.registry.store import Registry

SPACE, NEWEST = "movies", 5
BATCH = 65_536
WAYS = ("copy", "bare loop", "local", "ray", "five maps")


def prepare(folder: Path, *, rows: int, dim: int, target_dim: int) -> None:
    """Publish six versions, and write a table of the newest: all but version 0 have `dim`."""
    rng = np.random.default_rng(0)
    space = Registry(folder / "registry").space(SPACE)
    for number in range(NEWEST + 1):
        draft = space.draft(number, run_id=f"run-{number}")
        size, before = dim if number else target_dim, dim if number > 1 else target_dim
        draft.write_model({}, {"w": np.zeros(1, np.float32)}, {"genre": ("a",)})
        draft.write_table("item", [(pa.array([0]), np.zeros((1, size), np.float32))])
        if number:
            matrix = rng.normal(size=(before, size)).astype(np.float32) / np.float32(size**0.5)
            draft.write_backward(BackwardMap(SPACE, number, number - 1, matrix))
        draft.write_metrics({})
        parent = number - 1 if number else None
        draft.publish(parent=parent, method="m", config={}, dataset_fingerprint="f")

    schema = pa.schema({"id": pa.int64(), "embedding": pa.list_(pa.float32(), dim)})
    with pq.ParquetWriter(
        folder / "input.parquet", schema, compression="none", use_dictionary=False
    ) as writer:
        for first in range(0, rows, BATCH):
            ids = pa.array(np.arange(first, min(first + BATCH, rows)))
            flat = pa.array(rng.standard_normal(len(ids) * dim, np.float32))
            vectors = pa.FixedSizeListArray.from_arrays(flat, dim)
            writer.write_table(pa.table([ids, vectors], schema=schema))


def bare(folder: Path, output: Path, *, multiply: bool) -> None:
    """What one would write without Backstay; with or without the product."""
    matrix = Registry(folder / "registry").space(SPACE).chain(1, 0).matrix
    writer = None
    for batch in pq.ParquetFile(folder / "input.parquet").iter_batches(BATCH):
        column = batch.column("embedding")
        if multiply:
            values = column.flatten().to_numpy().reshape(len(batch), -1)
            flat = pa.array((values @ matrix.T).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, len(matrix))
        out = pa.table({"id": batch.column("id"), "embedding": column})
        writer = writer or pq.ParquetWriter(
            output, out.schema, compression="none", use_dictionary=False
        )
        writer.write_table(out)
    if writer:
        writer.close()


def backstay(
    folder: Path, output: Path, *, source: int, engine: Engine, workers: int | None
) -> None:
    """What a user runs."""
    convert(
        ConvertConfig(
            registry=str(folder / "registry"),
            space=SPACE,
            source=source,
            targets=(0,),
            input=str(folder / "input.parquet"),
            assume_version=source,
            output=str(output),
            engine=engine,
            workers=workers,
        )
    )


def start_workers() -> None:
    """Have each worker of Ray Data started, with the imports that a conversion needs."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    cores = int(ray.cluster_resources()["CPU"])
    ray.data.range(cores, override_num_blocks=cores).map(imported).materialize()


def imported(row: dict[str, int]) -> dict[str, int]:
    """Import what a conversion's task does, and keep its CPU until the other workers have begun."""
    importlib.import_module("backstay.engines.conversion.work")
    time.sleep(1)
    return row


def run(folder: Path, way: str, workers: int | None) -> dict[str, float]:
    """Seconds that one way takes, and seconds that Ray takes to start before it."""
    output = folder / "output"
    start = 0.0
    with contextlib.ExitStack() as stack:
        if way == "ray":
            began = time.perf_counter()
            stack.enter_context(ray_session(cpus=workers))
            start_workers()
            start = time.perf_counter() - began
        began = time.perf_counter()
        if way in {"copy", "bare loop"}:
            bare(folder, output, multiply=way != "copy")
        else:
            engine: Engine = "ray" if way == "ray" else "local"
            source = NEWEST if way == "five maps" else 1
            backstay(folder, output, source=source, engine=engine, workers=workers)
        return {"seconds": time.perf_counter() - began, "start": start}


def measure(folder: Path, way: str, workers: int | None) -> tuple[float, float, float]:
    """Seconds, seconds of Ray's start, and peak memory in MB of one way, in its own process."""
    mark = f"BACKSTAY_BENCHMARK={folder} {way}"
    name, _, value = mark.partition("=")
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    command += ["--workers", str(workers)] if workers else []
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
    written = folder / "output"
    if written.is_dir():
        shutil.rmtree(written)
    else:
        written.unlink()
    os.sync()  # the next way finds an idle disk
    found = json.loads(output)
    return found["seconds"], found["start"], peak


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
    """Prepare, measure the ways in turns, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--target-dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="[default: one for each core]")
    parser.add_argument("--ways", default=",".join(WAYS), help="some of: %(default)s")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(run(given.folder, given.way, given.workers)))
        return
    ways = given.ways.split(",")
    print(header(machine("ray", "pyarrow", "numpy")))
    print(
        f"{given.rows:,} rows, {given.dim} → {given.target_dim} dimensions, float32, "
        f"{given.rounds} rounds, workers: {given.workers or 'one for each core'}\n"
    )
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="backstay-benchmark-") as folder:
        prepare(Path(folder), rows=given.rows, dim=given.dim, target_dim=given.target_dim)
        for _ in range(given.rounds):
            for way in ways:
                found[way].append(measure(Path(folder), way, given.workers))
    print(f"{'':12}{'seconds':>10}{'rows/s':>12}{'× bare loop':>13}{'× copy':>9}{'peak MB':>10}")
    seconds = {way: statistics.median(s for s, _, _ in found[way]) for way in ways}
    for way in ways:
        ratios = [
            f"{seconds[rival] / seconds[way]:.2f}" if rival in seconds else "–"
            for rival in ("bare loop", "copy")
        ]
        peak = max(peak for _, _, peak in found[way])
        print(
            f"{way:12}{seconds[way]:10.2f}{given.rows / seconds[way]:12,.0f}"
            f"{ratios[0]:>13}{ratios[1]:>9}{peak:10,.0f}"
        )
    if "ray" in found:
        start = statistics.median(start for _, start, _ in found["ray"])
        print(f"\nthe start of Ray, not counted above: {start:.1f} s")


if __name__ == "__main__":
    main()
