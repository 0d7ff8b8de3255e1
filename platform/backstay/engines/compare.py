"""`backstay compare`: the comparison's cells as Ray tasks, its results as files."""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

import ray
from ray.exceptions import RayError

from backstay.cluster.session import ray_session
from backstay.datasets.dataset import Dataset
from backstay.datasets.timeline import check_split, steps
from backstay.engines.run_folder import claim_folder
from backstay.errors import InputError
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.analysis.significance import missing_baselines
from backstay.evaluation.analysis.summary import with_summary
from backstay.evaluation.comparison.cell_store import FOLDER, CellStore
from backstay.evaluation.comparison.keys import CellKey, Outputs
from backstay.evaluation.comparison.plan import ComparePlan, PlanOptions, Profile
from backstay.evaluation.comparison.results import Results
from backstay.evaluation.comparison.run import compare_methods
from backstay.evaluation.comparison.runner import Cell, InProcess, failure, inputs_of, run_cell
from backstay.evaluation.comparison.values import Data
from backstay.evaluation.report.write import write_report

log = logging.getLogger("backstay.compare")

RESULTS_FILE = "results.json"


def compare(
    dataset: Path,
    *,
    out: Path,
    profile: Profile = "fast",
    workers: int | None = None,
    **options: Unpack[PlanOptions],
) -> Analysis:
    """Compare update methods on a dataset; write results.json, the report and its figures.

    Every cell (a fit, the consumers of a task, a judgement) is a Ray task of one CPU. The same call
    repeated after a crash or after failures runs only the cells that have not finished. So does a
    call that adds methods.

    Args:
        dataset: a dataset folder.
        out: the folder of the run.
        profile: see `ComparePlan.of`.
        workers: most tasks at the same time; None: one per CPU; 1: in this process, without Ray.
        options: override the profile.
    """
    plan = ComparePlan.of(profile, **options)
    opened = Dataset.open(dataset)
    shape = {name: value for name, value in plan.to_dict().items() if name != "methods"}
    claim_folder(
        out,
        {"plan": shape, "data": opened.info.fingerprint},
        result=None if _is_incomplete(out / RESULTS_FILE, plan) else RESULTS_FILE,
    )
    data = read_data(opened, plan)
    if missing := missing_baselines(plan.methods):
        log.warning(
            "the report can't recommend a method without %s: both costs are measured against no-bc "
            "and fix-m0. Add it to --methods; a later run with the same --out adds it, too.",
            " and ".join(missing),
        )
    started = time.perf_counter()
    with nullcontext() if workers == 1 else ray_session(cpus=workers):
        found = compare_methods(
            data,
            plan,
            about=asdict(opened.info),
            runner=InProcess() if workers == 1 else RayTasks(),
            store=CellStore(out / FOLDER),
        )
    seconds = time.perf_counter() - started
    results = with_summary(found)
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
    """The timeline of a dataset; refuses edges on the wrong side of a split."""
    interactions = opened.interactions()
    timeline = tuple(steps(interactions, plan.slices))
    for step in timeline:
        check_split(step, interactions)
    return Data(timeline, opened.attributes(interactions.item_ids))


def _is_incomplete(path: Path, plan: ComparePlan) -> bool:
    """Whether these results have failed cells or lack some of the plan's methods."""
    try:
        results = Results.load(path)
    except InputError:
        return False
    done = {row.method for row in results.summary}
    asked = set(plan.methods)
    return done <= asked and (done != asked or bool(results.failures))


class RayTasks:
    """Runs each cell as a Ray task of one CPU; needs a Ray session."""

    def run(
        self, cells: Iterable[Cell[object]], data: Data, known: Outputs
    ) -> Iterator[tuple[CellKey[object], object]]:
        """See Runner. A cell whose process died counts as failed."""
        anywhere = ray.remote(num_cpus=1)(run_cell)
        own_process = ray.remote(num_cpus=1, max_calls=1)(run_cell)
        shared = ray.put(data)
        references = {}
        waiting = {}
        for cell in cells:
            for key in inputs_of(cell):
                if key not in references:
                    references[key] = ray.put(known.outcome(key))
            task = own_process if cell.own_process else anywhere
            inputs = [references[key] for key in inputs_of(cell)]
            references[cell.key] = task.remote(cell, shared, *inputs)
            waiting[references[cell.key]] = cell.key
        del references, shared  # Ray frees an output when no task needs it any more
        while waiting:
            (reference,), _ = ray.wait(list(waiting), num_returns=1, fetch_local=False)
            key = waiting.pop(reference)
            try:
                yield key, ray.get(reference)
            except RayError as error:
                yield key, failure(key, error)
