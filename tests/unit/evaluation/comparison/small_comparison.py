"""A small comparison of all methods, made once for all who look into it, and runners to break."""

import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from backstay.datasets.dataset import Dataset
from backstay.datasets.marketplace import generate
from backstay.datasets.marketplace_config import MarketplaceConfig
from backstay.datasets.timeline import steps
from backstay.evaluation.comparison.cells import Data
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.comparison.results import Results
from backstay.evaluation.comparison.run import compare_methods
from backstay.evaluation.comparison.runner import Here
from backstay.evaluation.consumers.labels import consumer_tasks

DIMS = (8, 12, 16)


class Recorder(Here):
    """Keeps what every cell has given, in their order."""

    def __init__(self):
        super().__init__()
        self.values = {}

    def finished(self):
        for label, value in super().finished():
            self.values[label] = value
            yield label, value


class Breaking(Recorder):
    """Some of whose cells raise an error, by their labels."""

    def __init__(self, *labels, error=ValueError("no luck")):  # noqa: B008 - it is raised, not changed
        super().__init__()
        self.labels, self.error = labels, error

    def submit(self, label, function, *args, **options):
        if label in self.labels:
            function = self._break
        return super().submit(label, function, *args, **options)

    def _break(self, *_args, **_options):
        raise self.error


@dataclass(frozen=True)
class Comparison:
    """What was found, and by which cells."""

    results: Results
    cells: dict[str, Any]  # by label

    def fit(self, method, version):
        """The cell that fitted a version."""
        if version == 0:
            return self.cells["fit version 0"]
        return self.cells[f"fit version {version} by {method}"]

    def line(self, method, newest):
        """Versions 0 … `newest` by a method."""
        return [self.fit(method, version) for version in range(newest + 1)]

    def consumers(self, data):
        """The consumers of every task, in the order of the tasks."""
        return [self.cells[f"train consumers of {task.name}"] for task in tasks_of(data)]


@cache
def small_data():
    """Three versions of a marketplace."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dataset"
        generate(MarketplaceConfig(interactions=3_000), out)
        opened = Dataset.open(out)
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
    results = compare_methods(small_data(), small_plan(), about={"name": "m"}, runner=recorder)
    return Comparison(results, recorder.values)


def values(results, method, task, metric):
    """(version, seed) -> value."""
    return {
        (r.version, r.seed): r.value
        for r in results.records
        if (r.method, r.task, r.metric) == (method, task, metric)
    }
