"""Each method's figures by consumer: mean ROC-AUC (Recall@50 of retrieval), and flipped decisions.

Retrieval counts as a consumer: an index of version-0 item vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from backstay.evaluation.analysis.significance import FIX_M0
from backstay.evaluation.analysis.summary import (
    ByTask,
    mean_over_versions,
    means_by_task,
    values_of,
)
from backstay.evaluation.comparison.results import RETRIEVAL, Record


@dataclass(frozen=True, kw_only=True)
class MeanShares:
    """Means over a method's consumers, versions and seeds; None without records."""

    retention: float | None = None  # of ROC-AUC above chance
    negative_flips: float | None = None
    positive_flips: float | None = None


NO_SHARES = MeanShares()


@dataclass(frozen=True, kw_only=True)
class ConsumerFigures:
    """Figures of every method and consumer; a method without records has no entry."""

    mean: ByTask  # ROC-AUC, or Recall@50 for retrieval
    cost: ByTask  # the same in percent above fix-m0; empty without fix-m0
    negative_flips: ByTask  # share of decisions right on version 0's vectors and wrong now
    positive_flips: ByTask  # share of decisions wrong on version 0's vectors and right now
    shares: dict[str, MeanShares]  # by method


def consumer_figures(records: Sequence[Record]) -> ConsumerFigures:
    """Compute the figures from a comparison's records."""
    mean = {
        method: {task: mean_over_versions(versions) for task, versions in tasks.items()}
        for method, tasks in _values(records).items()
    }
    retention = means_by_task(records, "retention")
    negative = means_by_task(records, "negative_flip_rate")
    positive = means_by_task(records, "positive_flip_rate")
    return ConsumerFigures(
        mean=mean,
        cost=consumer_costs(records),
        negative_flips=negative,
        positive_flips=positive,
        shares={
            method: MeanShares(
                retention=_mean(retention.get(method)),
                negative_flips=_mean(negative.get(method)),
                positive_flips=_mean(positive.get(method)),
            )
            for method in mean
        },
    )


def consumer_costs(records: Sequence[Record]) -> ByTask:
    """Percent above fix-m0 for each consumer that both were judged on at the same versions."""
    found = _values(records)
    baseline = found.get(FIX_M0)
    if baseline is None:
        return {}
    return {
        method: {
            task: 100 * (mean_over_versions(versions) / reference - 1)
            for task, versions in tasks.items()
            if versions.keys() == baseline.get(task, {}).keys()
            and (reference := mean_over_versions(baseline[task]))
        }
        for method, tasks in found.items()
    }


def _values(records: Sequence[Record]) -> dict[str, dict[str, dict[int, list[float]]]]:
    """ROC-AUC of the consumers and Recall@50 of retrieval, by method, task and version."""
    found = values_of(records, "roc_auc")
    for method, tasks in values_of(records, "recall@50", task=RETRIEVAL).items():
        found.setdefault(method, {}).update(tasks)
    return found


def _mean(by_task: Mapping[str, float] | None) -> float | None:
    return fmean(by_task.values()) if by_task else None
