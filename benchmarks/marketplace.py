"""How fast the built-in marketplace is made, and in how much memory.

    python benchmarks/marketplace.py [INTERACTIONS …]

Each size is made in a process of its own: once as a stream that nobody keeps, once as a dataset
folder. Times are wall clock; memory is the greatest resident set of that process.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

from _machine import header, machine

from backstay.datasets.marketplace import MarketplaceConfig, generate, interaction_batches

SIZES = [100_000, 1_000_000, 10_000_000]


def stream(interactions: int) -> None:
    """Make the interactions and let them go."""
    for _ in interaction_batches(MarketplaceConfig(interactions=interactions)):
        pass


def folder(interactions: int) -> None:
    """Write the dataset folder."""
    with tempfile.TemporaryDirectory() as parent:
        generate(MarketplaceConfig(interactions=interactions), Path(parent) / "market")


def measured(what: str, interactions: int) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak MB of one of the two above."""
    wall, processor = time.perf_counter(), time.process_time()
    {"stream": stream, "folder": folder}[what](interactions)
    return (
        time.perf_counter() - wall,
        time.process_time() - processor,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    )


def main() -> None:
    """Print a line per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, metavar="INTERACTIONS")
    sizes = parser.parse_args().sizes
    print(header(machine("numpy", "pyarrow")))
    print(f"{'made':8}{'interactions':>14}{'wall s':>9}{'cpu s':>9}{'per s':>11}{'peak MB':>9}")
    context = multiprocessing.get_context("spawn")
    for what in ("stream", "folder"):
        for size in sizes:
            with context.Pool(1) as pool:
                wall, processor, peak = pool.apply(measured, (what, size))
            print(f"{what:8}{size:14,}{wall:9.1f}{processor:9.1f}{size / wall:11,.0f}{peak:9,.0f}")


if __name__ == "__main__":
    main()
