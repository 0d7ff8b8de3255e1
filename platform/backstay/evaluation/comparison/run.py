"""The comparison: methods × versions × consumers, as cells given to a `Runner`."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import cast

from backstay.compat.methods import find_method
from backstay.errors import TrainingError, UsageError
from backstay.evaluation.comparison.cell_store import CellStore
from backstay.evaluation.comparison.cells import FitCell, JudgeCell, TrainCell
from backstay.evaluation.comparison.keys import CellKey, FitKey, JudgeKey, Outputs, TrainKey
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.comparison.replicates import collect_replicates
from backstay.evaluation.comparison.results import Failure, Results, Summary
from backstay.evaluation.comparison.runner import Cell, InProcess, Runner
from backstay.evaluation.comparison.values import Data, Fitted, Judgement
from backstay.evaluation.consumers.labels import (
    ConsumerTask,
    SkippedTask,
    TaskName,
    consumer_tasks,
)
from backstay.evaluation.consumers.model import Consumer
from backstay.evaluation.metrics.alignment import Floats

log = logging.getLogger("backstay.compare")

_OPTIMISTIC = (
    "Recall@50 is that of each fit's best evaluation on the window it is judged on, as published: "
    "optimistic, for all methods alike."
)

Versions = Mapping[str, Sequence[FitKey]]
"""Method -> the fits of its versions 0, 1, …"""


@dataclass(frozen=True)
class SharedInputs:
    """Inputs shared by all methods: version 0, and the consumers trained on its vectors."""

    first: Fitted
    consumers: Mapping[TaskName, list[Consumer]]  # by seed

    def outputs(self) -> Outputs:
        """The same as outputs of their cells."""
        outputs = Outputs({FitKey(0): self.first})
        for task, trained in self.consumers.items():
            outputs.add(TrainKey(task), trained)
        return outputs


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What was measured of every method."""

    judgements: Mapping[str, tuple[Judgement, ...]]  # by method, ascending by version
    costs: Mapping[str, Summary]  # by method: rows that hold only costs
    failures: tuple[Failure, ...]
    left_out: tuple[SkippedTask, ...]


def prepare_shared_inputs(
    data: Data, plan: ComparePlan, runner: Runner, *, store: CellStore | None = None
) -> SharedInputs:
    """Fit version 0 and train the consumers, for several comparisons by the same plan.

    What is in `store` is not computed again. Raises TrainingError if a cell fails.
    """
    tasks, _ = consumer_tasks(data.steps)
    outputs = _run(_shared_cells(plan, tasks), data, Outputs(), runner, store)
    refuse_failures(failed for _, failed in outputs.failures())
    trained = {task.name: outputs[TrainKey(task.name)] for task in tasks}
    return SharedInputs(outputs[FitKey(0)], trained)


def refuse_failures(failures: Iterable[Failure]) -> None:
    """Raise TrainingError for the first failure, if there is one."""
    for failed in failures:
        raise TrainingError(f"{failed.cell} failed: {failed.message}")


def compare_methods(
    data: Data,
    plan: ComparePlan,
    *,
    about: dict[str, object],
    runner: Runner | None = None,
    shared: SharedInputs | None = None,
    store: CellStore | None = None,
) -> Results:
    """Run the whole comparison.

    The arguments are those of `judge_methods`. The summary of the results holds only costs. Failed
    cells are listed; the figures are made of the others. Raises TrainingError if version 0 fails.
    """
    judged = judge_methods(data, plan, runner=runner, shared=shared, store=store)
    return results_of(judged, plan.to_dict(), about=about)


def judge_methods(
    data: Data,
    plan: ComparePlan,
    *,
    versions: Collection[int] | None = None,
    runner: Runner | None = None,
    shared: SharedInputs | None = None,
    store: CellStore | None = None,
) -> Judged:
    """Fit all versions by all methods, and judge them.

    Args:
        data: the data set, one step per version.
        plan: what to compare.
        versions: the versions to judge; by default all.
        runner: where cells run; by default in this process.
        shared: from an earlier comparison by the same plan; by default made here.
        store: cells that an earlier run finished, and those that this one finishes.

    Raises TrainingError if version 0 fails. Other failures are listed in the answer.
    """
    if len(data.steps) != len(plan.dims):
        raise UsageError(f"{len(plan.dims)} versions planned, {len(data.steps)} steps found.")
    tasks, skipped = consumer_tasks(data.steps)
    chains, fits = _fit_cells(plan)
    judging = [
        cell
        for cell in _judge_cells(plan, chains, tasks)
        if versions is None or cell.key.version in versions
    ]
    cells = [*([] if shared else _shared_cells(plan, tasks)), *fits, *judging]
    known = shared.outputs() if shared else Outputs()
    outputs = _run(cells, data, known, runner or InProcess(), store)
    if failed := outputs.failure(FitKey(0)):
        raise TrainingError(
            f"version 0 could not be fitted ({failed.message}): nothing to compare."
        )
    judgements: dict[str, list[Judgement]] = {method: [] for method in plan.methods}
    for cell in judging:
        if judgement := outputs.get(cell.key):
            judgements[cell.key.method].append(judgement)
    return Judged(
        judgements={method: tuple(row) for method, row in judgements.items()},
        costs={method: _costs(method, keys, outputs) for method, keys in chains.items()},
        failures=tuple(_failures(chains, outputs)),
        left_out=tuple(skipped),
    )


def results_of(
    judged: Judged, protocol: Mapping[str, object], *, about: dict[str, object]
) -> Results:
    """The results of judged methods, with a summary that holds only costs."""
    parts = [part for row in judged.judgements.values() for part in row]
    fit = cast("Mapping[str, object]", protocol["fit"])
    return Results(
        dataset=about,
        protocol={
            **protocol,
            "left_out": [asdict(entry) for entry in judged.left_out],
            "notes": [_OPTIMISTIC] if fit["keep"] == "best" else [],
        },
        summary=tuple(judged.costs.values()),
        records=tuple(record for part in parts for record in part.records),
        maps=tuple(figures for part in parts for figures in part.maps),
        replicates=collect_replicates(
            {
                method: {part.version: part.recall for part in row}
                for method, row in judged.judgements.items()
            },
            {method: _by_task(row) for method, row in judged.judgements.items()},
        ),
        failures=judged.failures,
    )


def _run(
    cells: Sequence[Cell[object]],
    data: Data,
    known: Outputs,
    runner: Runner,
    store: CellStore | None,
) -> Outputs:
    """Run the cells that are not in the store; returns `known`, with all outputs added.

    Logs each cell, and stores it, as it finishes.
    """
    left = []
    for cell in cells:
        found = store.find(cell.key) if store else None
        if found is None:
            left.append(cell)
        else:
            log.info("%s: reused from an earlier run", cell.key.label)
            known.add(cell.key, found)
    done = len(cells) - len(left)
    for key, output in runner.run(left, data, known):
        known.add(key, output)
        done += 1
        count = f"{done} of {len(cells)}"
        if isinstance(output, Failure):
            log.error("%s: %s failed: %s", count, key.label, output.message)
            continue
        if store:
            store.save(key, output)
        log.info("%s done: %s", count, key.label)
    return known


def _shared_cells(plan: ComparePlan, tasks: Sequence[ConsumerTask]) -> list[FitCell | TrainCell]:
    return [
        FitCell(key=FitKey(0), plan=plan.version("no-bc", 0)),
        *(TrainCell(task=task, config=plan.consumers) for task in tasks),
    ]


def _fit_cells(plan: ComparePlan) -> tuple[dict[str, list[FitKey]], list[FitCell]]:
    """The versions of every method, and the cells that fit them, but for version 0.

    Models from scratch are fitted once, for `no-bc` and the post-hoc maps.
    """
    versions = {method: [FitKey(0)] for method in plan.methods}
    cells: dict[FitKey, FitCell] = {}
    # First the methods each of whose versions waits for a long fit of the one before.
    order = sorted(plan.methods, key=_shares_models)
    for version in range(1, len(plan.dims)):
        scratch = FitKey(version, "no-bc")
        for method in order:
            if _shares_models(method):
                cells.setdefault(scratch, FitCell(key=scratch, plan=plan.version("no-bc", version)))
            if find_method(method).map == "none":
                versions[method].append(scratch)
                continue
            key = FitKey(version, method)
            cells[key] = FitCell(
                key=key,
                plan=plan.version(method, version),
                older=tuple(versions[method]),
                fitted=scratch if find_method(method).posthoc else None,
            )
            versions[method].append(key)
    return versions, list(cells.values())


def _shares_models(method: str) -> bool:
    row = find_method(method)
    return row.model == "scratch" and not row.joint


def _judge_cells(
    plan: ComparePlan, versions: Versions, tasks: Sequence[ConsumerTask]
) -> list[JudgeCell]:
    return [
        JudgeCell(
            key=JudgeKey(version, method),
            seed=plan.fit.seed,
            versions=tuple(keys[: version + 1]),
            examples={task.name: task.judge[version] for task in tasks if version in task.judge},
        )
        for method, keys in versions.items()
        for version in range(len(keys))
    ]


def _by_task(row: Sequence[Judgement]) -> dict[str, dict[int, Floats]]:
    """Replicates of ROC-AUC by task and version."""
    tasks = dict.fromkeys(task for part in row for task in part.aucs)
    return {
        task: {part.version: part.aucs[task] for part in row if task in part.aucs} for task in tasks
    }


def _costs(method: str, keys: Sequence[FitKey], outputs: Outputs) -> Summary:
    """A method's row with the costs of its own fits; a frozen model is fitted once, as version 0.

    The costs are blank if a fit failed.
    """
    own = keys[:1] if find_method(method).model == "frozen" else keys
    fits = [fit for key in own if (fit := outputs.get(key))]
    if len(fits) < len(own):
        return Summary.blank(method)
    return replace(
        Summary.blank(method),
        fit_seconds=sum(fit.seconds for fit in fits),
        peak_rss_mb=max(fit.peak_rss_mb for fit in fits),
    )


def _failures(versions: Versions, outputs: Outputs) -> Iterator[Failure]:
    """Every failed cell, once per method and version that lacks it; causes before effects."""
    lacking: dict[CellKey[object], list[tuple[str, int]]] = {}
    for method, keys in versions.items():
        for version, key in enumerate(keys):
            lacking.setdefault(key, []).append((method, version))
            lacking.setdefault(JudgeKey(version, method), []).append((method, version))
    for cell, failed in outputs.failures():
        if cell not in lacking:
            yield failed
        for method, version in lacking.get(cell, []):
            yield replace(failed, method=method, version=version)
