"""The comparison: methods × versions × consumers, as cells handed to a `Runner`."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from backstay.compat.methods import find_method
from backstay.errors import TrainingError, UsageError
from backstay.evaluation.analysis.summary import Cost, summarise
from backstay.evaluation.comparison.cell_store import Kept
from backstay.evaluation.comparison.cells import (
    Data,
    Fitted,
    Judgement,
    fit_cell,
    judge_cell,
    train_cell,
)
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.comparison.replicates import collect_replicates
from backstay.evaluation.comparison.results import Failure, Results
from backstay.evaluation.comparison.runner import CONSUMERS, Here, Runner
from backstay.evaluation.consumers.labels import ConsumerTask, TaskName, consumer_tasks

log = logging.getLogger("backstay.compare")

_OPTIMISTIC = (
    "Recall@50 is that of each fit's best evaluation on the window it is judged on, as published: "
    "optimistic, for all methods alike."
)


@dataclass(frozen=True)
class Ground:
    """What every method stands on: version 0, and the consumers trained on it. Or promises."""

    first: Any  # Fitted
    consumers: Mapping[TaskName, Any]  # task -> list[Consumer], by seed


@dataclass
class _Cells:
    """The cells of one comparison: submitted once each, kept, and collected by their labels."""

    runner: Runner
    kept: Kept | None
    values: dict[str, Any] = field(default_factory=dict)  # of finished cells
    _count: int = 0

    def submit(self, label: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A cell's result, or a promise of it; an earlier run's where that has finished it."""
        self._count += 1
        found = self.kept.find(label) if self.kept else None
        if found is None:
            return self.runner.submit(label, function, *args, **options)
        log.info("%s: kept from an earlier run", label)
        self.values[label] = found
        return self.runner.share(found)

    def collect(self) -> None:
        """Wait for all cells; what fails is told at once, and what finishes is kept."""
        for label, value in self.runner.finished():
            self.values[label] = value
            count = f"{len(self.values)} of {self._count}"
            if isinstance(value, Failure):
                log.error("%s: %s failed: %s", count, label, value.message)
                continue
            if self.kept:
                self.kept.save(label, value)
            log.info("%s done: %s", count, label)


def prepare_ground(data: Data, plan: ComparePlan, runner: Runner) -> Ground:
    """Fit version 0 and train the consumers, for several comparisons to stand on.

    Raises TrainingError where a cell fails: all of them would lack it.
    """
    tasks, _ = consumer_tasks(data.steps)
    cells = _Cells(runner, None)
    _submit_ground(runner.share(data), tasks, plan, cells)
    cells.collect()
    refuse_failures(part for part in cells.values.values() if isinstance(part, Failure))
    trained = {task.name: cells.values[f"{CONSUMERS} {task.name}"] for task in tasks}
    return Ground(cells.values[_fit_label(0)], trained)


def refuse_failures(failures: Iterable[Failure]) -> None:
    """Raise TrainingError for the first cell that failed, if any has."""
    for failed in failures:
        raise TrainingError(f"{failed.cell} failed: {failed.message}")


def _submit_ground(
    data: Any, tasks: Sequence[ConsumerTask], plan: ComparePlan, cells: _Cells
) -> Ground:
    first = cells.submit(_fit_label(0), fit_cell, data, plan.version("no-bc", 0), version=0)
    consumers = {
        task.name: cells.submit(
            f"{CONSUMERS} {task.name}", train_cell, data, task, first, plan.consumers
        )
        for task in tasks
    }
    return Ground(first, consumers)


def _fit_label(version: int, method: str | None = None) -> str:
    """What a fit is called; version 0 is the same for all methods."""
    return f"fit version {version}" + (f" by {method}" if method else "")


def _submit_fits(
    data: Any, plan: ComparePlan, ground: Ground, cells: _Cells
) -> dict[str, list[tuple[str, Any]]]:
    """Submit the fits of every method: method -> its versions, as (label, result or promise).

    Models from scratch are fitted once, for `no-bc` and the post-hoc maps alike.
    """
    lines: dict[str, list[tuple[str, Any]]] = {
        method: [(_fit_label(0), ground.first)] for method in plan.methods
    }
    scratch: dict[int, tuple[str, Any]] = {}

    def submit(method: str, version: int, *older: Any, fitted: Any = None) -> tuple[str, Any]:
        label, chosen = _fit_label(version, method), plan.version(method, version)
        promise = cells.submit(
            label, fit_cell, data, chosen, *older, version=version, fitted=fitted
        )
        return label, promise

    # First the methods each of whose versions waits for a long fit of the one before.
    order = sorted(plan.methods, key=_shares_models)
    for version in range(1, len(plan.dims)):
        for method in order:
            if _shares_models(method) and version not in scratch:
                scratch[version] = submit("no-bc", version)
            if find_method(method).map == "none":
                lines[method].append(scratch[version])
                continue
            fitted = scratch[version][1] if find_method(method).posthoc else None
            older = (promise for _, promise in lines[method])
            lines[method].append(submit(method, version, *older, fitted=fitted))
    return lines


def _shares_models(method: str) -> bool:
    row = find_method(method)
    return row.model == "scratch" and not row.joint


def compare_methods(
    data: Data,
    plan: ComparePlan,
    *,
    about: dict[str, Any],
    runner: Runner | None = None,
    ground: Ground | None = None,
    kept: Kept | None = None,
) -> Results:
    """Run the whole comparison; `about` is what the results say of the data.

    `runner` is where cells run, by default here. `ground` is what earlier comparisons by the same
    plan stood on. `kept` holds what an earlier run of this comparison has finished.

    A cell that fails is reported in the results, which are then made of the others. Raises
    TrainingError where version 0 fails, without which there is nothing to compare.
    """
    if len(data.steps) != len(plan.dims):
        raise UsageError(f"{len(plan.dims)} versions planned, {len(data.steps)} steps found.")
    tasks, left_out = consumer_tasks(data.steps)
    cells = _Cells(runner or Here(), kept)
    shared = cells.runner.share(data)
    if ground is None:
        ground = _submit_ground(shared, tasks, plan, cells)
    lines = _submit_fits(shared, plan, ground, cells)
    judged = {
        method: [f"judge version {version} by {method}" for version in range(len(line))]
        for method, line in lines.items()
    }
    for method, labels in judged.items():
        for version, label in enumerate(labels):
            cells.submit(
                label,
                judge_cell,
                shared,
                tasks,
                method,
                plan.fit.seed,
                *(ground.consumers[task.name] for task in tasks),
                *(promise for _, promise in lines[method][: version + 1]),
            )
    cells.collect()
    _refuse_nothing(cells)
    judgements = {
        method: [found for label in labels if isinstance(found := cells.values[label], Judgement)]
        for method, labels in judged.items()
    }
    costs = {method: _cost(method, line, cells.values) for method, line in lines.items()}
    records = tuple(r for row in judgements.values() for part in row for r in part.records)
    replicates = collect_replicates(
        {method: {part.version: part.recall for part in row} for method, row in judgements.items()},
        {method: _by_task(row) for method, row in judgements.items()},
    )
    return Results(
        dataset=about,
        protocol=plan.to_dict()
        | {
            "left_out": [asdict(entry) for entry in left_out],
            "notes": [_OPTIMISTIC] if plan.fit.keep == "best" else [],
        },
        summary=summarise(records, plan.methods, costs=costs, replicates=replicates),
        records=records,
        maps=tuple(figures for row in judgements.values() for part in row for figures in part.maps),
        replicates=replicates,
        failures=tuple(_failures(lines, judged, cells.values)),
    )


def _refuse_nothing(cells: _Cells) -> None:
    first = cells.values.get(_fit_label(0))
    if isinstance(first, Failure):
        raise TrainingError(f"version 0 could not be fitted ({first.message}): nothing to compare.")


def _by_task(row: Sequence[Judgement]) -> dict[str, dict[int, Any]]:
    """Replicates by task and version."""
    tasks = dict.fromkeys(task for part in row for task in part.aucs)
    return {
        task: {part.version: part.aucs[task] for part in row if task in part.aucs} for task in tasks
    }


def _cost(method: str, line: Sequence[tuple[str, Any]], values: Mapping[str, Any]) -> Cost | None:
    """What a method's own fits took; a frozen model is fitted once, as version 0."""
    own = line[:1] if find_method(method).model == "frozen" else line
    fits = [values.get(label, part) for label, part in own]
    if not all(isinstance(fit, Fitted) for fit in fits):
        return None
    return Cost(
        fit_seconds=sum(fit.seconds for fit in fits),
        peak_rss_mb=max(fit.peak_rss_mb for fit in fits),
    )


def _failures(
    lines: Mapping[str, Sequence[tuple[str, Any]]],
    judged: Mapping[str, Sequence[str]],
    values: Mapping[str, Any],
) -> list[Failure]:
    """Every cell that failed, with the methods and versions that lack it; the cause first."""
    whose: dict[str, list[tuple[str, int]]] = {}
    for method, line in lines.items():
        for version, (label, _) in enumerate(line):
            whose.setdefault(label, []).append((method, version))
        for version, label in enumerate(judged[method]):
            whose.setdefault(label, []).append((method, version))
    failed = []
    for label, value in values.items():
        if isinstance(value, Failure):
            named = replace(value, cell=label)
            failed += [
                replace(named, method=method, version=version)
                for method, version in whose.get(label, [])
            ] or [named]
    return failed
