"""`backstay compare`: the comparison's cells as Ray tasks, its results as files."""

import logging
import time
from collections.abc import Callable, Sequence
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
            results = compare_methods(data, plan, about=about, runner=RayTasks())
    seconds = time.perf_counter() - started
    out.mkdir(parents=True, exist_ok=True)
    results.write(out / "results.json")
    page = write_report(results, out)
    log.info("compared %d methods in %.0f s; the report is %s", len(plan.methods), seconds, page)
    return results


class RayTasks:
    """Runs each cell as a Ray task of one CPU; needs a Ray session."""

    def __init__(self) -> None:
        # A fit has a process of its own, whose peak memory is then the fit's.
        self._fit = ray.remote(num_cpus=1, max_calls=1)(_call)
        self._other = ray.remote(num_cpus=1)(_call)
        self._labels: dict[Any, str] = {}
        self._done: set[Any] = set()

    def share(self, value: Any) -> Any:
        """Put the value into the object store, where tasks read it without a copy."""
        return ray.put(value)

    def submit(self, label: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Submit a task; the promise is a reference that further tasks may be given."""
        task = self._fit if function is fit_cell else self._other
        promise = task.remote(function, *args, **options)
        self._labels[promise] = label
        return promise

    def collect(self, promises: Sequence[Any]) -> list[Any]:
        """Wait for all tasks so far, then fetch these; the first failure ends the wait."""
        waiting = [promise for promise in self._labels if promise not in self._done]
        while waiting:
            (finished,), waiting = ray.wait(waiting, fetch_local=False)
            self._done.add(finished)
            ray.get(finished)
            log.info(
                "%d of %d done: %s", len(self._done), len(self._labels), self._labels[finished]
            )
        results: list[Any] = ray.get(list(promises))
        return results


def _call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return function(*args, **options)
