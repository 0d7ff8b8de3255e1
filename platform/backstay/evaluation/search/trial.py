"""One trial: fit the versions of a timeline one by one with given settings, and judge each."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from backstay.evaluation.analysis.significance import pairs
from backstay.evaluation.analysis.summary import with_summary
from backstay.evaluation.comparison.cell_store import CellStore
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.comparison.results import Results, Summary
from backstay.evaluation.comparison.run import (
    Judged,
    SharedInputs,
    judge_methods,
    refuse_failures,
    results_of,
)
from backstay.evaluation.comparison.values import Data, Judgement
from backstay.evaluation.search.settings import TrialSettings

BASELINES = ("fix-m0", "no-bc")
"""The methods that costs are measured against."""

HOPELESS = 2.0
"""A trial ends early if its whole interval is this many percentage points below a usual weight."""

Judgements = Mapping[str, Sequence[Judgement]]
"""By method or trial, ascending by version."""


def first_versions(data: Data, version: int) -> Data:
    """The data of versions 0 to `version`: what a search may see of a longer timeline."""
    return replace(data, steps=data.steps[: version + 1])


def run_trial(
    data: Data,
    plan: ComparePlan,
    settings: TrialSettings,
    *,
    method: str,
    shared: SharedInputs,
    store: CellStore,
) -> Iterator[Judgement]:
    """Fit and judge versions 1, 2, … of `data`; yield each judgement as soon as it is made.

    What is in `store` is not computed again. Raises TrainingError if a cell fails.
    """
    for version in range(1, len(data.steps)):
        yield judge_settings(
            first_versions(data, version),
            plan.until(version),
            settings,
            versions={version},
            method=method,
            shared=shared,
            store=store,
        )[0]


def judge_settings(
    data: Data,
    plan: ComparePlan,
    settings: TrialSettings,
    *,
    versions: Collection[int],
    method: str,
    shared: SharedInputs,
    store: CellStore,
) -> tuple[Judgement, ...]:
    """Fit all versions of `data` with these settings, and judge some; see `run_trial`."""
    judged = judge_methods(
        data, settings.plan(plan, method), versions=versions, shared=shared, store=store
    )
    refuse_failures(judged.failures)
    return judged.judgements[method]


def as_results(
    judgements: Judgements, plan: ComparePlan, *, about: Mapping[str, object] | None = None
) -> Results:
    """The results of several methods or trials, each under its own name, with their summary."""
    named = {
        name: tuple(
            replace(
                part,
                records=tuple(replace(record, method=name) for record in part.records),
                maps=tuple(replace(figures, method=name) for figures in part.maps),
            )
            for part in row
        )
        for name, row in judgements.items()
    }
    costs = {name: Summary.blank(name) for name in named}
    judged = Judged(judgements=named, costs=costs, failures=(), left_out=())
    protocol = plan.to_dict() | {"methods": list(named)}
    return with_summary(results_of(judged, protocol, about=dict(about or {})))


def beside(
    others: Judgements, made: Sequence[Judgement], plan: ComparePlan, *, name: str
) -> Results:
    """The results of an unfinished trial and others, on the versions that it has judged so far."""
    seen = {part.version for part in made}
    rows = {other: [p for p in row if p.version in seen] for other, row in others.items()}
    return as_results({**rows, name: made}, plan)


def hopeless(found: Results, *, name: str, references: Sequence[str]) -> str | None:
    """The reason to end a trial early; None if it may still be the best.

    It is hopeless if its sum is surely more than `HOPELESS` points below a reference's.
    """
    for pair in pairs(found):
        if pair.figure != "total_pct" or name not in (pair.first, pair.second):
            continue
        other = pair.first if pair.second == name else pair.second
        least = pair.interval[0] if pair.second == name else -pair.interval[1]
        if other in references and least > HOPELESS:
            return f"its sum was surely {least:.1f} points or more below that of {other}"
    return None
