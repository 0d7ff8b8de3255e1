"""The three figures of a method: intended, unintended, alignment error (design, section 2)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from backstay.evaluation.analysis.significance import FIX_M0, NO_BC, percentages
from backstay.evaluation.comparison.results import (
    ALIGNMENT,
    RECOMMENDATION,
    Metric,
    Record,
    Replicates,
    Summary,
)
from backstay.evaluation.metrics.bootstrap import Interval, interval


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a fit of one method took, over all its versions."""

    fit_seconds: float
    peak_rss_mb: float


def values_of(
    records: Iterable[Record], metric: Metric, *, task: str | None = None
) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Values by method, task and version (a list over seeds) of one metric."""
    found: dict[str, dict[str, dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for record in records:
        if record.metric == metric and task in (None, record.task):
            found[record.method][record.task][record.version].append(record.value)
    return {
        method: {task: dict(sorted(versions.items())) for task, versions in tasks.items()}
        for method, tasks in found.items()
    }


def summarise(
    records: Sequence[Record],
    methods: Sequence[str],
    *,
    costs: Mapping[str, Cost | None] | None = None,
    replicates: Sequence[Replicates] = (),
) -> tuple[Summary, ...]:
    """The comparison table, one row a method in the order given.

    A percentage, and its interval, is None where its baseline (`no-bc` for the intended task,
    `fix-m0` for the unintended ones) wasn't judged on the same tasks and versions.
    """
    recalls = values_of(records, "recall@50", task=RECOMMENDATION)
    aucs = values_of(records, "roc_auc")
    errors = values_of(records, "alignment_error", task=ALIGNMENT)
    sure = {
        figure: {method: interval(values) for method, values in by_method.items()}
        for figure, by_method in percentages(replicates).items()
    }
    rows = []
    for method in methods:
        intended_pct = _percent(recalls.get(method), recalls.get(NO_BC))
        unintended_pct = _percent(aucs.get(method), aucs.get(FIX_M0))
        total_pct = (
            None
            if intended_pct is None or unintended_pct is None
            else intended_pct + unintended_pct
        )
        cost = (costs or {}).get(method)
        rows.append(
            Summary(
                method=method,
                intended_recall50=mean_over_tasks(recalls.get(method)),
                intended_pct=intended_pct,
                unintended_auc=mean_over_tasks(aucs.get(method)),
                unintended_pct=unintended_pct,
                total_pct=total_pct,
                alignment_error=mean_over_tasks(errors.get(method)),
                fit_seconds=cost.fit_seconds if cost else None,
                peak_rss_mb=cost.peak_rss_mb if cost else None,
                intended_interval=_of(sure["intended_pct"], method, intended_pct),
                unintended_interval=_of(sure["unintended_pct"], method, unintended_pct),
                total_interval=_of(sure["total_pct"], method, total_pct),
            )
        )
    return tuple(rows)


def _of(
    intervals: Mapping[str, Interval], method: str, percentage: float | None
) -> Interval | None:
    """The interval of a method's percentage, where there is one."""
    return None if percentage is None else intervals.get(method)


def mean_over_tasks(tasks: Mapping[str, Mapping[int, Sequence[float]]] | None) -> float | None:
    """Mean over tasks of the mean over versions of the mean over seeds; None of nothing."""
    if not tasks:
        return None
    return fmean(
        fmean(fmean(values) for values in versions.values()) for versions in tasks.values()
    )


def _percent(
    found: Mapping[str, Mapping[int, Sequence[float]]] | None,
    baseline: Mapping[str, Mapping[int, Sequence[float]]] | None,
) -> float | None:
    """How far `found` lies above `baseline`, in percent of it."""
    ours, theirs = mean_over_tasks(found), mean_over_tasks(baseline)
    if found is None or baseline is None or ours is None or not theirs:
        return None
    covered = [
        {task: set(versions) for task, versions in part.items()} for part in (found, baseline)
    ]
    return 100 * (ours / theirs - 1) if covered[0] == covered[1] else None
