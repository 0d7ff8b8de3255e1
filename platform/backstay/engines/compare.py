"""`backstay compare`: the comparison's cells as Ray tasks, its results as files."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from backstay.datasets.dataset import Dataset
from backstay.datasets.timeline import check_split, steps
from backstay.engines.run_folder import claim_folder
from backstay.engines.session import ray_session
from backstay.errors import InputError
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.comparison.cell_store import FOLDER, Kept
from backstay.evaluation.comparison.cells import Data, fit_cell
from backstay.evaluation.comparison.plan import ComparePlan, Profile
from backstay.evaluation.comparison.results import Results
from backstay.evaluation.comparison.run import compare_methods
from backstay.evaluation.comparison.runner import Here, failure, run_cell
from backstay.evaluation.report.write import write_report

log = logging.getLogger("backstay.compare")

RESULTS_FILE = "results.json"


def compare(
    dataset: Path,
    *,
    out: Path,
    profile: Profile = "fast",
    workers: int | None = None,
    **settings: Any,
) -> Analysis:
    """Compare update methods on a dataset; write results.json, the report and its figures.

    Fits, consumers and judgements run as Ray tasks of one CPU each, `workers` at the same time
    (None: as many as there are CPUs; 1: in this process, without Ray). `settings` override the
    profile: see `ComparePlan.of`. The same call made again after a crash, or after some cells have
    failed, keeps what was finished; so does one that asks for more methods.
    """
    plan = ComparePlan.of(profile, **settings)
    opened = Dataset.open(dataset)
    shape = {name: value for name, value in plan.to_dict().items() if name != "methods"}
    claim_folder(
        out,
        {"plan": shape, "data": opened.info.fingerprint},
        result=None if _leaves_to_do(out / RESULTS_FILE, plan) else RESULTS_FILE,
    )
    data = read_data(opened, plan)
    started = time.perf_counter()
    with nullcontext() if workers == 1 else ray_session(cpus=workers):
        results = compare_methods(
            data,
            plan,
            about=asdict(opened.info),
            runner=Here() if workers == 1 else RayTasks(),
            kept=Kept(out / FOLDER),
        )
    seconds = time.perf_counter() - started
    results.write(out / RESULTS_FILE)
    analysis = Analysis.of(results)
    page = write_report(analysis, out)
    log.info("compared %d methods in %.0f s; the report is %s", len(plan.methods), seconds, page)
    if results.failures:
        log.warning(
            "%d cells failed, the first: %s (%s); the same command tries them again",
            len({failed.cell for failed in results.failures}),
            results.failures[0].cell,
            results.failures[0].message,
        )
    return analysis


def read_data(opened: Dataset, plan: ComparePlan) -> Data:
    """The timeline of a dataset, checked for edges that stand on the wrong side of the split."""
    interactions = opened.interactions()
    timeline = tuple(steps(interactions, plan.slices))
    for step in timeline:
        check_split(step, interactions)
    return Data(timeline, opened.attributes(interactions.item_ids))


def _leaves_to_do(path: Path, plan: ComparePlan) -> bool:
    """Whether cells have failed in these results, or some of the plan's methods are missing."""
    try:
        results = Results.load(path)
    except InputError:
        return False
    done = {row.method for row in results.summary}
    asked = set(plan.methods)
    return done <= asked and (done != asked or bool(results.failures))


class RayTasks:
    """Runs each cell as a Ray task of one CPU; needs a Ray session."""

    def __init__(self) -> None:
        # A fit has a process of its own, whose peak memory is then the fit's.
        self._fit = ray.remote(num_cpus=1, max_calls=1)(run_cell)
        self._other = ray.remote(num_cpus=1)(run_cell)
        self._labels: dict[Any, str] = {}

    def share(self, value: Any) -> Any:
        """Put the value into the object store, where tasks read it without a copy."""
        return ray.put(value)

    def submit(self, label: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Submit a task; the promise is a reference that further tasks may be given."""
        task = self._fit if function is fit_cell else self._other
        promise = task.remote(label, function, *args, **options)
        self._labels[promise] = label
        return promise

    def finished(self) -> Iterator[tuple[str, Any]]:
        """Every submitted cell as it finishes; a process that died counts as a failure."""
        while self._labels:
            (promise,), _ = ray.wait(list(self._labels), num_returns=1, fetch_local=False)
            label = self._labels.pop(promise)
            try:
                value = ray.get(promise)
            except RayError as error:
                value = failure(label, error)
            yield label, value
