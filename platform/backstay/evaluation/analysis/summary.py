"""The three figures of a method: intended, unintended and alignment error."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from backstay.evaluation.analysis.significance import FIX_M0, NO_BC, percentages
from backstay.evaluation.comparison.results import (
    ALIGNMENT,
    RECOMMENDATION,
    Failure,
    Metric,
    Record,
    Replicates,
    Results,
    Summary,
)
from backstay.evaluation.metrics.bootstrap import Interval, interval

ByTask = dict[str, dict[str, float]]
"""Method -> task -> figure."""


def values_of(
    records: Iterable[Record], metric: Metric, *, task: str | None = None
) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Values of one metric by method, task and version, each a list over seeds."""
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
    replicates: Sequence[Replicates] = (),
) -> tuple[Summary, ...]:
    """The comparison table without costs: one row per method, in the order given.

    A percentage and its interval are None if the baseline (`no-bc` for the intended task, `fix-m0`
    for the unintended ones) was not judged on the same tasks and versions.
    """
    recalls = values_of(records, "recall@50", task=RECOMMENDATION)
    aucs = values_of(records, "roc_auc")
    errors = values_of(records, "alignment_error", task=ALIGNMENT)
    intervals = {
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
        rows.append(
            replace(
                Summary.blank(method),
                intended_recall50=mean_over_tasks(recalls.get(method)),
                intended_pct=intended_pct,
                unintended_auc=mean_over_tasks(aucs.get(method)),
                unintended_pct=unintended_pct,
                total_pct=total_pct,
                alignment_error=mean_over_tasks(errors.get(method)),
                intended_interval=_of(intervals["intended_pct"], method, intended_pct),
                unintended_interval=_of(intervals["unintended_pct"], method, unintended_pct),
                total_interval=_of(intervals["total_pct"], method, total_pct),
            )
        )
    return tuple(rows)


def with_summary(results: Results) -> Results:
    """The results of `compare_methods` with all figures in their summary, not only the costs."""
    methods = [row.method for row in results.summary]
    rows = summarise(results.records, methods, replicates=results.replicates)
    return replace(
        results,
        summary=tuple(
            replace(row, fit_seconds=cost.fit_seconds, peak_rss_mb=cost.peak_rss_mb)
            for row, cost in zip(rows, results.summary, strict=True)
        ),
    )


def _of(
    intervals: Mapping[str, Interval], method: str, percentage: float | None
) -> Interval | None:
    """The interval of a method's percentage; None if there is no percentage."""
    return None if percentage is None else intervals.get(method)


def mean_over_tasks(tasks: Mapping[str, Mapping[int, Sequence[float]]] | None) -> float | None:
    """Mean over tasks of the mean over versions of the mean over seeds; None without tasks."""
    return fmean(map(mean_over_versions, tasks.values())) if tasks else None


def mean_over_versions(versions: Mapping[int, Sequence[float]]) -> float:
    """Mean over versions of the mean over seeds."""
    return fmean(fmean(values) for values in versions.values())


def means_by_task(records: Iterable[Record], metric: Metric) -> ByTask:
    """One metric's means over versions and seeds, by method and task."""
    return {
        method: {task: mean_over_versions(versions) for task, versions in tasks.items()}
        for method, tasks in values_of(records, metric).items()
    }


def _percent(
    found: Mapping[str, Mapping[int, Sequence[float]]] | None,
    baseline: Mapping[str, Mapping[int, Sequence[float]]] | None,
) -> float | None:
    """Percent by which `found` is above `baseline`; None if they cover different versions."""
    ours, theirs = mean_over_tasks(found), mean_over_tasks(baseline)
    if found is None or baseline is None or ours is None or not theirs:
        return None
    covered = [
        {task: set(versions) for task, versions in part.items()} for part in (found, baseline)
    ]
    return 100 * (ours / theirs - 1) if covered[0] == covered[1] else None


def incomplete(summary: Sequence[Summary], failures: Sequence[Failure]) -> frozenset[str]:
    """The methods that have no sum because one of their cells failed."""
    failed = {failure.method for failure in failures}
    return frozenset(r.method for r in summary if r.method in failed and r.total_pct is None)


def comparable(summary: Sequence[Summary], failures: Sequence[Failure]) -> tuple[Summary, ...]:
    """The summary without means over fewer versions or tasks than the other methods' means.

    Where a method's cell failed and a percentage is None, so is the mean it is made of. The
    alignment error is None where the sum is.
    """
    failed = {failure.method for failure in failures}
    return tuple(
        replace(
            row,
            intended_recall50=None if row.intended_pct is None else row.intended_recall50,
            unintended_auc=None if row.unintended_pct is None else row.unintended_auc,
            alignment_error=None if row.total_pct is None else row.alignment_error,
        )
        if row.method in failed
        else row
        for row in summary
    )


def pareto_front(summary: Sequence[Summary]) -> tuple[str, ...]:
    """The methods that no other method beats on both sides, of those that have both."""
    points = {
        row.method: (row.unintended_pct, row.intended_pct)
        for row in summary
        if row.unintended_pct is not None and row.intended_pct is not None
    }
    return tuple(
        method
        for method, ours in points.items()
        if not any(
            theirs != ours and theirs[0] >= ours[0] and theirs[1] >= ours[1]
            for theirs in points.values()
        )
    )
