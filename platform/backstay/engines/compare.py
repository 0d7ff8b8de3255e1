"""`backstay compare`: the comparison's cells as Ray tasks, its results as files."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backstay.datasets.dataset import Dataset
from backstay.datasets.timeline import steps
from backstay.engines.session import ray_session
from backstay.errors import InputError
from backstay.evaluation.compare import Data, compare_methods
from backstay.evaluation.plan import ComparePlan, Profile
from backstay.evaluation.report import write_report
from backstay.evaluation.results import Results

log = logging.getLogger("backstay.compare")


def compare(
    dataset: Path,
    *,
    out: Path,
    profile: Profile = "fast",
    workers: int | None = None,
    **settings: Any,
) -> Results:
    """Compare update methods on a dataset; write results.json, the report and its figures.

    Fits and consumers run as Ray tasks of one CPU each, `workers` at the same time (None: as many
    as there are CPUs; 1: in this process, without Ray). `settings` override the profile: see
    `ComparePlan.of`.
    """
    plan = ComparePlan.of(profile, **settings)
    opened = Dataset.open(dataset)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; give the comparison a folder of its own.")
    interactions = opened.interactions()
    data = Data(tuple(steps(interactions, plan.slices)), opened.attributes(interactions.item_ids))
    started = time.perf_counter()
    results = run_cells(
        lambda **ways: compare_methods(data, plan, about=asdict(opened.info), **ways),
        workers=workers,
    )
    log.info("compared %d methods in %.0f s", len(plan.methods), time.perf_counter() - started)
    out.mkdir(parents=True, exist_ok=True)
    results.write(out / "results.json")
    write_report(results, out)
    return results


def run_cells(comparison: Callable[..., Results], *, workers: int | None) -> Results:
    """Run a comparison's cells as Ray tasks, or in this process where one worker is asked for."""
    if workers == 1:
        return comparison()
    import ray  # noqa: PLC0415  (seconds to load)

    with ray_session(cpus=workers):
        # A process of its own for every cell: its peak memory is then the cell's.
        @ray.remote(num_cpus=1, max_calls=1)  # type: ignore[untyped-decorator]
        def cell(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            return function(*arguments, **options)

        return comparison(submit=cell.remote, put=ray.put, gather=ray.get)
