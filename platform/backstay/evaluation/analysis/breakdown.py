"""What a method costs by version and by consumer: the parts its figures are the means of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from backstay.evaluation.analysis.significance import FIX_M0, NO_BC
from backstay.evaluation.analysis.summary import mean_over_tasks, values_of
from backstay.evaluation.comparison.results import RECOMMENDATION, RETRIEVAL, Record, Results
from backstay.evaluation.metrics.bootstrap import Interval, interval


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval, where one is known."""

    value: float
    interval: Interval | None = None


ByVersion = dict[int, Estimate]


def recall_by_version(results: Results) -> dict[str, ByVersion]:
    """Recall@50 of each version, by method."""
    found: dict[str, ByVersion] = {}
    for record in results.records:
        if record.task == RECOMMENDATION and record.metric == "recall@50":
            estimate = Estimate(record.value, record.interval)
            found.setdefault(record.method, {})[record.version] = estimate
    return {method: dict(sorted(versions.items())) for method, versions in found.items()}


def auc_by_version(results: Results, *, task: str | None = None) -> dict[str, ByVersion]:
    """ROC-AUC of each version, mean over seeds and over the tasks judged there, by method.

    The interval's ends are the means of the consumers' ends: too wide rather than too narrow.
    """
    parts: dict[str, dict[int, list[Record]]] = {}
    for record in results.records:
        if record.metric == "roc_auc" and task in (None, record.task):
            parts.setdefault(record.method, {}).setdefault(record.version, []).append(record)
    return {
        method: {version: _over_tasks(versions[version]) for version in sorted(versions)}
        for method, versions in parts.items()
    }


def _over_tasks(records: Sequence[Record]) -> Estimate:
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    value = fmean(fmean(record.value for record in part) for part in by_task.values())
    known = [[r.interval for r in part if r.interval] for part in by_task.values()]
    if not all(known):
        return Estimate(value)
    low, high = (fmean(fmean(ends[side] for ends in part) for part in known) for side in (0, 1))
    return Estimate(value, (low, high))


def intended_by_version(results: Results) -> dict[str, ByVersion]:
    """Recall@50 in percent of `no-bc`'s at the same version, by method."""
    return _against(recall_by_version(results), NO_BC)


def unintended_by_version(results: Results) -> dict[str, ByVersion]:
    """Mean ROC-AUC in percent of `fix-m0`'s on the same tasks and version, by method."""
    tasks: dict[tuple[str, int], set[str]] = {}
    for record in results.records:
        if record.metric == "roc_auc":
            tasks.setdefault((record.method, record.version), set()).add(record.task)
    return {
        method: {
            version: estimate
            for version, estimate in versions.items()
            if tasks.get((method, version)) == tasks.get((FIX_M0, version))
        }
        for method, versions in _against(auc_by_version(results), FIX_M0).items()
    }


def _against(found: Mapping[str, ByVersion], baseline: str) -> dict[str, ByVersion]:
    """Percent above the baseline, which has no interval against itself."""
    reference = found.get(baseline, {})
    return {
        method: {
            version: _percent(estimate, reference[version].value, exact=method == baseline)
            for version, estimate in versions.items()
            if version in reference and reference[version].value
        }
        for method, versions in found.items()
    }


def _percent(estimate: Estimate, reference: float, *, exact: bool) -> Estimate:
    value = 100 * (estimate.value / reference - 1)
    if exact or estimate.interval is None:
        return Estimate(value)
    low, high = (100 * (end / reference - 1) for end in estimate.interval)
    return Estimate(value, (low, high))


def by_consumer(results: Results) -> dict[str, dict[str, float]]:
    """Percent above `fix-m0` in each consumer task and in retrieval: method -> task -> percent.

    Only of tasks that both were judged on at the same versions.
    """
    found = values_of(results.records, "roc_auc")
    for method, tasks in values_of(results.records, "recall@50", task=RETRIEVAL).items():
        found.setdefault(method, {}).update(tasks)
    baseline = found.get(FIX_M0)
    if baseline is None:
        return {}
    return {
        method: {
            task: 100 * ((mean_over_tasks({task: versions}) or 0.0) / reference - 1)
            for task, versions in tasks.items()
            if versions.keys() == baseline.get(task, {}).keys()
            and (reference := mean_over_tasks({task: baseline[task]}))
        }
        for method, tasks in found.items()
    }


def gain_over_never_updating(results: Results) -> dict[str, Estimate]:
    """Percent by which a method's Recall@50 is above `fix-m0`'s, paired; by method."""
    means = {
        row.method: row.intended_recall50
        for row in results.summary
        if row.intended_pct is not None and row.intended_recall50 is not None
    }
    if not means.get(FIX_M0):
        return {}
    recalls = {part.method: part.recall for part in results.replicates if part.recall}
    found = {}
    for method, mean in means.items():
        sure = None
        if method in recalls and FIX_M0 in recalls:
            pairs = zip(recalls[method], recalls[FIX_M0], strict=True)
            sure = interval([100 * (ours / theirs - 1) for ours, theirs in pairs if theirs])
        found[method] = Estimate(100 * (mean / means[FIX_M0] - 1), sure)
    return found
