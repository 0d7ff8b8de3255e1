"""Each method's figures by version: the parts that the means of the comparison are made of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Self

from backstay.evaluation.analysis.significance import FIX_M0, NO_BC
from backstay.evaluation.analysis.summary import values_of
from backstay.evaluation.comparison.results import ALIGNMENT, RECOMMENDATION, Record
from backstay.evaluation.metrics.bootstrap import Interval


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; None where it was not resampled."""

    value: float
    interval: Interval | None = None


ByVersion = dict[int, Estimate]
Series = Mapping[str, ByVersion]
"""Method -> version -> figure."""


@dataclass(frozen=True, kw_only=True)
class VersionFigures:
    """Figures of every method at every version."""

    recall: Series  # Recall@50
    auc: Series  # ROC-AUC, mean over seeds and over the tasks judged at the version
    auc_of_task: Mapping[str, Series]  # the same of one task, by task
    intended: Series  # percent of no-bc's Recall@50 at the same version
    unintended: Series  # percent of fix-m0's ROC-AUC on the same tasks at the same version
    distance: Series  # mean distance to M_0's own vectors, without interval

    @classmethod
    def of(cls, records: Sequence[Record]) -> Self:
        """Compute the figures from a comparison's records."""
        recall, auc = _recall(records), _auc(records)
        tasks = dict.fromkeys(record.task for record in records if record.metric == "roc_auc")
        aligned = values_of(records, "alignment_error", task=ALIGNMENT)
        return cls(
            recall=recall,
            auc=auc,
            auc_of_task={task: _auc(r for r in records if r.task == task) for task in tasks},
            intended=_against(recall, NO_BC),
            unintended=_unintended(records, auc),
            distance={
                method: {version: Estimate(fmean(part)) for version, part in versions.items()}
                for method, tasks in aligned.items()
                for versions in tasks.values()
            },
        )


def _recall(records: Sequence[Record]) -> dict[str, ByVersion]:
    found: dict[str, ByVersion] = {}
    for record in records:
        if record.task == RECOMMENDATION and record.metric == "recall@50":
            estimate = Estimate(record.value, record.interval)
            found.setdefault(record.method, {})[record.version] = estimate
    return {method: dict(sorted(versions.items())) for method, versions in found.items()}


def _auc(records: Iterable[Record]) -> dict[str, ByVersion]:
    """Means of ROC-AUC by version.

    The interval's ends are the means of the consumers' ends: too wide rather than too narrow.
    """
    parts: dict[str, dict[int, list[Record]]] = {}
    for record in records:
        if record.metric == "roc_auc":
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


def _unintended(records: Sequence[Record], auc: Series) -> dict[str, ByVersion]:
    """Percent of fix-m0's ROC-AUC, only at versions where both have the same tasks."""
    tasks: dict[tuple[str, int], set[str]] = {}
    for record in records:
        if record.metric == "roc_auc":
            tasks.setdefault((record.method, record.version), set()).add(record.task)
    return {
        method: {
            version: estimate
            for version, estimate in versions.items()
            if tasks.get((method, version)) == tasks.get((FIX_M0, version))
        }
        for method, versions in _against(auc, FIX_M0).items()
    }


def _against(found: Series, baseline: str) -> dict[str, ByVersion]:
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
