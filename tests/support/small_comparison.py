"""A small comparison of all methods, made once, and runners that record or break cells."""

import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from backstay.datasets.dataset import Dataset
from backstay.datasets.timeline import steps
from backstay.evaluation.analysis.summary import with_summary
from backstay.evaluation.comparison.keys import CellKey, FitKey, Outputs, TrainKey
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.comparison.results import Results
from backstay.evaluation.comparison.run import compare_methods
from backstay.evaluation.comparison.runner import Cell, InProcess
from backstay.evaluation.comparison.values import Data
from backstay.evaluation.consumers.labels import consumer_tasks
from tests.support.builders import marketplace

DIMS = (8, 12, 16)


class Recorder(InProcess):
    """Records the outputs of all cells."""

    def __init__(self):
        self.outputs = Outputs()
        self.keys = []  # in the order in which they finished

    @property
    def labels(self):
        return [key.label for key in self.keys]

    def run(self, cells, data, known):
        for key, output in super().run(cells, data, known):
            self.keys.append(key)
            self.outputs.add(key, output)
            yield key, output


@dataclass(frozen=True)
class Changed:
    """A cell that runs something else first."""

    cell: Cell
    first: object

    def __getattr__(self, name):
        return getattr(self.cell, name)

    def run(self, data, outputs):
        self.first()
        return self.cell.run(data, outputs)


class Breaking(Recorder):
    """Cells with these labels raise an error."""

    def __init__(self, *labels, error=ValueError("no luck")):  # noqa: B008 - it is raised, not changed
        super().__init__()
        self.broken, self.error = labels, error

    def run(self, cells, data, known):
        changed = (
            Changed(cell, self._break) if cell.key.label in self.broken else cell for cell in cells
        )
        return super().run(changed, data, known)

    def _break(self):
        raise self.error


@dataclass(frozen=True)
class Comparison:
    """The results, and the outputs of the cells."""

    results: Results
    outputs: Outputs
    keys: list[CellKey]  # in the order in which the cells finished

    def fit(self, method, version):
        """A fitted version."""
        return self.outputs[FitKey(version, method if version else None)]

    def line(self, method, newest):
        """Versions 0 … `newest` by a method."""
        return [self.fit(method, version) for version in range(newest + 1)]

    def consumers(self, data):
        """The consumers of every task, in the order of the tasks."""
        return {task.name: self.outputs[TrainKey(task.name)] for task in tasks_of(data)}


@cache
def small_data():
    """Three versions of a marketplace."""
    with tempfile.TemporaryDirectory() as folder:
        opened = Dataset.open(marketplace(Path(folder)))
        interactions = opened.interactions()
        timeline = steps(interactions, (0.5, 0.6, 0.7, 0.8))
        return Data(tuple(timeline), opened.attributes(interactions.item_ids))


def tasks_of(data):
    return consumer_tasks(data.steps)[0]


@cache
def small_plan():
    plan = ComparePlan.of("fast", dims=DIMS, epochs=2, map_epochs=2, seeds=2, consumer_epochs=3)
    return replace(plan, consumers=replace(plan.consumers, widths=(8,), dropouts=(0.0,)))


@cache
def small_comparison():
    recorder = Recorder()
    results = compare(small_data(), small_plan(), about={"name": "m"}, runner=recorder)
    return Comparison(results, recorder.outputs, recorder.keys)


def compare(data, plan, **options):
    """The results of a comparison, with their summary."""
    return with_summary(compare_methods(data, plan, **{"about": {}, **options}))


def values(results, method, task, metric):
    """(version, seed) -> value."""
    return {
        (r.version, r.seed): r.value
        for r in results.records
        if (r.method, r.task, r.metric) == (method, task, metric)
    }
