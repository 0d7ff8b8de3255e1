"""The comparison: methods × versions × consumers, as cells that can run anywhere.

Every cell is a function of arrays that gives arrays, handed to a `Runner`: called at once in this
process, or run as a Ray task by `engines.compare`. What the runner returns may be passed on to
further cells before it is finished.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from backstay.compat.maps import chain_matrix
from backstay.compat.methods import find_method
from backstay.datasets.dataset import Attributes
from backstay.datasets.timeline import Step
from backstay.errors import UsageError
from backstay.evaluation.consumer_fit import ConsumerConfig, train_consumers
from backstay.evaluation.consumers import Consumer, judge
from backstay.evaluation.figures import Cost, alignment_error, summarise
from backstay.evaluation.labels import ConsumerTask, TaskName, consumer_tasks
from backstay.evaluation.memory import peak_memory
from backstay.evaluation.plan import ComparePlan
from backstay.evaluation.ranking import RankingTask, RecallResult
from backstay.evaluation.results import ALIGNMENT, RECOMMENDATION, Record, Results
from backstay.evaluation.tables import Tables
from backstay.training.version import (
    FittedVersion,
    Predecessor,
    TrainedModel,
    VersionPlan,
    fit_version,
)

log = logging.getLogger("backstay.compare")

_OPTIMISTIC = (
    "Recall@50 is that of each fit's best evaluation on the window it is judged on, as published: "
    "optimistic, for all methods alike."
)


@dataclass(frozen=True)
class Data:
    """What every cell reads: the timeline and the items' attributes."""

    steps: tuple[Step, ...]
    attributes: Attributes


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One version by one method: fitted, judged on the intended task, and led back to version 0."""

    version: int
    model: TrainedModel
    matrices: tuple[npt.NDArray[np.float32], ...]  # B_k, …, B_1: newest first; () where none
    compatible: npt.NDArray[np.float32]  # z̃_0 (n_users + n_items, D_0) of the version's step
    recall: RecallResult
    alignment_error: float
    curves: dict[str, list[dict[str, float]]]
    seconds: float
    peak_rss_mb: float


class Runner(Protocol):
    """Where cells run."""

    def share(self, value: Any) -> Any:
        """Make a value available to all cells; what comes back stands for it."""

    def submit(self, label: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run a cell: its result, or a promise of it that later cells may be given."""

    def collect(self, promises: Sequence[Any]) -> list[Any]:
        """Wait for the results of cells, and log each by its label as it comes."""


class Here:
    """The plainest runner: this process, one cell after the other."""

    def share(self, value: Any) -> Any:
        """The value itself."""
        return value

    def submit(self, label: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The result."""
        result = function(*args, **options)
        log.info("%s: done", label)
        return result

    def collect(self, promises: Sequence[Any]) -> list[Any]:
        """The results, which are there."""
        return list(promises)


@dataclass(frozen=True)
class Ground:
    """What every method stands on: version 0, and the consumers trained on it. Or promises."""

    first: Any  # Cell
    consumers: Mapping[TaskName, Any]  # task -> list[Consumer], by seed


def submit_ground(
    data: Any, tasks: Sequence[ConsumerTask], plan: ComparePlan, runner: Runner
) -> Ground:
    """Submit version 0 and the consumers; `data` is Data or a promise of it."""
    first = runner.submit("fit version 0", fit_cell, data, plan.version("no-bc", 0), version=0)
    consumers = {
        task.name: runner.submit(
            f"train consumers of {task.name}", train_cell, data, task, first, plan.consumers
        )
        for task in tasks
    }
    return Ground(first, consumers)


def submit_cells(
    data: Any, plan: ComparePlan, ground: Ground, runner: Runner
) -> dict[str, list[Any]]:
    """Submit the fits of every method: method -> its cells (or promises of them), by version.

    Models from scratch are fitted once, for `no-bc` and the post-hoc maps alike.
    """

    def submit(method: str, version: int, **options: Any) -> Any:
        return runner.submit(
            f"fit version {version} by {method}",
            fit_cell,
            data,
            plan.version(method, version),
            version=version,
            first=ground.first,
            **options,
        )

    cells: dict[str, list[Any]] = {method: [ground.first] for method in plan.methods}
    scratch: dict[int, Any] = {}
    # Joint methods first: each of their versions waits for the one before.
    for method in sorted(plan.methods, key=lambda name: not find_method(name).joint):
        row = find_method(method)
        for version in range(1, len(plan.dims)):
            if row.model == "scratch" and not row.joint and version not in scratch:
                scratch[version] = submit("no-bc", version)
            if row.map == "none":
                cells[method].append(scratch[version])
                continue
            fitted = scratch[version] if row.posthoc else None
            cells[method].append(submit(method, version, previous=cells[method][-1], fitted=fitted))
    return cells


def fit_cell(
    data: Data,
    plan: VersionPlan,
    *,
    version: int,
    first: Cell | None = None,
    previous: Cell | None = None,
    fitted: Cell | None = None,
) -> Cell:
    """Fit one version by one method and judge it.

    `first` is version 0 (None for itself); `previous` is version k - 1 of a method that has maps;
    `fitted` is the finished model that only lacks a map.
    """
    step = data.steps[version]
    ranking = RankingTask.of(step)

    def recall(z: torch.Tensor) -> float:
        return ranking.recall(z[: step.n_users], z[step.n_users :]).mean

    with peak_memory() as peak:
        result: FittedVersion = fit_version(
            step,
            data.attributes,
            plan,
            previous=Predecessor(previous.model, previous.matrices) if previous else None,
            score=recall if len(ranking.users) else None,
            fitted=fitted.model if fitted else None,
        )
    z = result.model.embed(step, data.attributes)
    matrices = previous.matrices if previous else ()
    if result.matrix is not None:
        matrices = (result.matrix, *matrices)
    reference = first.model.embed(step, data.attributes) if first else z
    led_back = z @ chain_matrix(matrices[::-1]).T if matrices else z
    compatible = led_back[:, : reference.shape[1]]
    return Cell(
        version=version,
        model=result.model,
        matrices=matrices,
        compatible=np.ascontiguousarray(compatible),
        recall=ranking.recall(z[: step.n_users], z[step.n_users :]),
        alignment_error=alignment_error([compatible], [reference]),
        curves=result.curves,
        seconds=result.seconds + (fitted.seconds if fitted else 0.0),
        peak_rss_mb=max(peak.rss_mb, fitted.peak_rss_mb if fitted else 0.0),
    )


def train_cell(
    data: Data, task: ConsumerTask, first: Cell, config: ConsumerConfig
) -> list[Consumer]:
    """Train the consumers of one task, once, on version 0's vectors."""
    own = {
        index: _tables(data.steps[index], first.model.embed(data.steps[index], data.attributes))
        for index in {0, task.early_stop_step}
    }
    return train_consumers(task, own[0], own[task.early_stop_step], config=config)


def judge_cell(
    data: Data, task: ConsumerTask, consumers: list[Consumer], *cells: Cell
) -> list[list[float]]:
    """ROC-AUC of every consumer (inner list, by seed) fed each of the cells' vectors."""
    return [
        [
            judge(
                consumer,
                task.judge[cell.version],
                _tables(data.steps[cell.version], cell.compatible),
            )
            for consumer in consumers
        ]
        for cell in cells
    ]


def _tables(step: Step, z: npt.NDArray[np.float32]) -> Tables:
    return Tables.of(z[: step.n_users], z[step.n_users :])


def compare_methods(
    data: Data,
    plan: ComparePlan,
    *,
    about: dict[str, Any],
    runner: Runner | None = None,
    ground: Ground | None = None,
) -> Results:
    """Run the whole comparison; `about` is what the results say of the data.

    `runner` is where cells run, by default here. `ground` is what an earlier comparison by the
    same plan stood on.
    """
    if len(data.steps) != len(plan.dims):
        raise UsageError(f"{len(plan.dims)} versions planned, {len(data.steps)} steps found.")
    runner = runner or Here()
    tasks, left_out = consumer_tasks(data.steps)
    shared = runner.share(data)
    ground = ground or submit_ground(shared, tasks, plan, runner)
    cells = submit_cells(shared, plan, ground, runner)
    asked = [(method, task) for task in tasks for method in plan.methods]
    verdicts = [
        runner.submit(
            f"judge {method} on {task.name}",
            judge_cell,
            shared,
            task,
            ground.consumers[task.name],
            *(cells[method][version] for version in task.judge),
        )
        for method, task in asked
    ]
    # One wait for everything, so that what fails or finishes is told when it does.
    done = iter(runner.collect([*(cell for row in cells.values() for cell in row), *verdicts]))
    finished: dict[str, list[Cell]] = {
        method: [next(done) for _ in row] for method, row in cells.items()
    }
    records = [
        record
        for method, row in finished.items()
        for cell in row
        for record in _cell_records(method, cell, finished.get("no-bc"), seed=plan.fit.seed)
    ] + [
        Record(
            method=method,
            version=version,
            task=task.name,
            metric="roc_auc",
            seed=seed,
            value=value,
        )
        for (method, task), aucs in zip(asked, done, strict=True)
        for version, values in zip(task.judge, aucs, strict=True)
        for seed, value in enumerate(values)
    ]
    return Results(
        dataset=about,
        protocol=plan.to_dict()
        | {
            "left_out": [vars(entry) for entry in left_out],
            "notes": [_OPTIMISTIC] if plan.fit.keep == "best" else [],
        },
        summary=summarise(
            records, plan.methods, costs={m: _cost(m, row) for m, row in finished.items()}
        ),
        records=tuple(records),
    )


def _cost(method: str, row: Sequence[Cell]) -> Cost:
    """What a method's own fits took; a frozen model is fitted once, as version 0."""
    fits = row[:1] if find_method(method).model == "frozen" else row
    return Cost(
        fit_seconds=sum(cell.seconds for cell in fits),
        peak_rss_mb=max(cell.peak_rss_mb for cell in fits),
    )


def _cell_records(
    method: str, cell: Cell, baseline: list[Cell] | None, *, seed: int
) -> list[Record]:
    record = Record(
        method=method,
        version=cell.version,
        task=RECOMMENDATION,
        metric="recall@50",
        seed=seed,
        value=cell.recall.mean,
    )
    records = [record, replace(record, metric="recall@50_se", value=cell.recall.standard_error)]
    if baseline:
        error = cell.recall.gap_standard_error(baseline[cell.version].recall)
        records.append(replace(record, metric="recall@50_gap_se", value=error))
    aligned = replace(record, task=ALIGNMENT, metric="alignment_error", value=cell.alignment_error)
    return [*records, aligned]
