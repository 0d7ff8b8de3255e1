"""Reading a table that is stored as a delta, beside the same table stored whole.

    python benchmarks/delta.py [--rows 1000000] [--dim 256] [--rounds 5] [--ways batches]

Both are versions of one registry on the local disk. One delta changes 5 % of the rows; the other
changes 4 % and deletes and adds 0.5 % each. Three ways to read: `batches` goes through all rows,
`read` puts them into one array, `service` makes the copy from which the look-up service answers.
Hashes are checked, as always. In each round every table is read in every way, in an order of its
own; the figures are medians of the rounds. CPU seconds matter on a machine that others use too.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from _machine import header, machine

from backstay.registry.store import Registry, Space
from backstay.registry.table_layout import Float32
from backstay.registry.tables import Batch
from backstay.serving.copies import Key, open_table_copy

SPACE, ENTITY = "bench", "item"
TABLES = {1: "whole", 2: "delta: 5 % changed", 3: "delta: 4 % changed, 0.5 % gone, 0.5 % new"}
BATCH = 1 << 14


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    print(header(machine("pyarrow", "numpy")))
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder) / "registry")
        publish(registry.space(SPACE), options.rows, options.dim)
        print(f"{options.rows:,} × {options.dim}, {options.rounds} rounds\n")
        found = measure(registry, Path(folder) / "cache", options.rounds, options.ways)
    print("| way | table | seconds | × whole | CPU seconds | × whole |\n|---|---|--:|--:|--:|--:|")
    for way in options.ways:
        whole = np.median(found[way, 1], axis=0)
        for version, name in TABLES.items():
            wall, cpu = np.median(found[way, version], axis=0)
            print(
                f"| {way} | {name} | {wall:.2f} | {wall / whole[0]:.2f} | {cpu:.2f} | "
                f"{cpu / whole[1]:.2f} |"
            )


def publish(space: Space, rows: int, dim: int) -> None:
    """Version 0 is the base, 1 the whole table, 2 and 3 are deltas."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows, dim), np.float32)
    chosen = rng.permutation(rows)
    ids = np.arange(rows)
    _publish(space, 0, ids, values, base=None)
    values[chosen[: rows // 20]] += np.float32(1)
    _publish(space, 1, ids, values, base=None)
    _publish(space, 2, ids, values, base=0)
    gone = chosen[rows // 25 : rows // 25 + rows // 200]
    values[gone] -= np.float32(1)  # they come back as new rows
    ids[gone] += rows
    _publish(space, 3, ids, values, base=0)
    bytes_ = [sum(f.size for f in space.manifest(k).files.values()) for k in range(4)]
    print("bytes:", ", ".join(f"version {k} {size:,}" for k, size in enumerate(bytes_)))


def _publish(
    space: Space, version: int, ids: np.ndarray, values: Float32, *, base: int | None
) -> None:
    def batches() -> Iterator[Batch]:
        for start in range(0, len(ids), BATCH):
            yield pa.array(ids[start : start + BATCH]), values[start : start + BATCH]

    draft = space.draft(version, run_id=f"run-{version}")
    draft.write_table(ENTITY, batches(), base=base)
    draft.publish(
        parent=version - 1 if version else None,
        method="random",
        config={},
        dataset_fingerprint="random",
    )


def _batches(registry: Registry, version: int, cache: Path) -> None:
    del cache
    table = registry.space(SPACE).table(version, ENTITY)
    if sum(len(ids) for ids, _ in table.batches()) != table.rows:
        raise AssertionError(table)


def _read(registry: Registry, version: int, cache: Path) -> None:
    del cache
    registry.space(SPACE).table(version, ENTITY).read()


def _service(registry: Registry, version: int, cache: Path) -> None:
    key = Key(SPACE, ENTITY, version, registry.space(SPACE).manifest(version).sha256)
    open_table_copy(registry, key, cache=cache)


WAYS: dict[str, Callable[[Registry, int, Path], None]] = {
    "batches": _batches,
    "read": _read,
    "service": _service,
}


def measure(
    registry: Registry, cache: Path, rounds: int, ways: Sequence[str]
) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """Seconds and CPU seconds of each way and version, one pair for each round."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {
        (way, version): [] for way in ways for version in TABLES
    }
    order = list(found)
    for number in range(rounds + 1):
        np.random.default_rng(number).shuffle(order)
        for way, version in order:
            began, cpu = time.perf_counter(), time.process_time()
            WAYS[way](registry, int(version), cache)
            if number:  # the first round warms the system's cache
                seconds = time.perf_counter() - began
                found[way, version].append((seconds, time.process_time() - cpu))
            shutil.rmtree(cache, ignore_errors=True)
    return found


if __name__ == "__main__":
    main()
