"""`backstay compare`: the comparison's cells as Ray tasks, its results as files."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from backstay.datasets.dataset import Dataset
from backstay.datasets.timeline import steps
from backstay.engines.session import ray_session
from backstay.errors import InputError
from backstay.evaluation.compare import Data, compare_methods, fit_cell
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
    about = asdict(opened.info)
    if workers == 1:
        results = compare_methods(data, plan, about=about)
    else:
        with ray_session(cpus=workers):
            results = compare_methods(
                data, plan, about=about, submit=submit_task(), put=ray.put, gather=ray.get
            )
    log.info("compared %d methods in %.0f s", len(plan.methods), time.perf_counter() - started)
    out.mkdir(parents=True, exist_ok=True)
    results.write(out / "results.json")
    write_report(results, out)
    return results


def submit_task() -> Callable[..., Any]:
    """A `Submit` that runs each cell as a Ray task of one CPU; needs a Ray session."""

    def run(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    # A fit has a process of its own, whose peak memory is then the fit's.
    fits = ray.remote(num_cpus=1, max_calls=1)(run)
    others = ray.remote(num_cpus=1)(run)

    def submit(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return (fits if function is fit_cell else others).remote(function, *arguments, **options)

    return submit
