"""`backstay tune`: Ray Tune searches λ, the weight of the alignment loss.

Every trial fits the versions of a timeline with one λ. Version 0, the baselines and the consumers
are the same for all of them and are made once, before the search.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search.optuna import OptunaSearch

from backstay.compat.methods import find_method
from backstay.datasets.dataset import Dataset
from backstay.engines.compare import RayTasks, read_data
from backstay.engines.run_folder import claim_folder
from backstay.engines.session import ray_session
from backstay.errors import TrainingError, UsageError
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.analysis.summary import Cost, summarise
from backstay.evaluation.comparison.cells import Data
from backstay.evaluation.comparison.plan import ComparePlan, Profile
from backstay.evaluation.comparison.results import MapFigures, Record, Replicates, Results, Summary
from backstay.evaluation.comparison.run import (
    Ground,
    compare_methods,
    prepare_ground,
    refuse_failures,
)
from backstay.evaluation.report.write import write_report

log = logging.getLogger("backstay.tune")

BASELINES = ("fix-m0", "no-bc")
TRIALS = 8
RANGE = (0.05, 64.0)
"""Where λ is searched, on a logarithmic scale; the paper's choice is 16, the fast recipe's 1."""

_RESULTS_FILE = "results.json"
_EXPERIMENT = "trials"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One λ and what it costs."""

    weight: float
    intended_pct: float | None  # against no-bc
    unintended_pct: float | None  # against fix-m0
    total_pct: float | None
    alignment_error: float | None
    on_front: bool  # no other trial is at least as good on both sides


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """What a search gives; the same as files in `out`."""

    method: str
    best_weight: float  # least total cost
    trials: tuple[Trial, ...]  # by rising λ
    out: str


def search(
    dataset: Path,
    *,
    out: Path,
    weights: Sequence[float] = (),
    trials: int | None = None,
    method: str = "bc-aligner",
    profile: Profile = "fast",
    workers: int | None = None,
    **settings: Any,
) -> SearchReport:
    """Search λ for a joint method; write the Pareto picture, the table and every trial's records.

    With `weights` exactly those are tried; else Optuna chooses `trials` of them for both costs at
    once. `settings` override the profile: see `ComparePlan.of`. The same call made again after a
    crash keeps the finished trials.
    """
    if not find_method(method).joint:
        raise UsageError(f"{method} has no alignment loss to weigh; expected a joint method.")
    if weights and trials:
        raise UsageError("give either --weights or --trials, not both.")
    plan = ComparePlan.of(profile, methods=BASELINES, **settings)
    opened = Dataset.open(dataset)
    claim_folder(
        out,
        {"plan": plan.to_dict(), "data": opened.info.fingerprint, "method": method},
        result=_RESULTS_FILE,
    )
    data = read_data(opened, plan)
    with ray_session(cpus=workers):
        ground, baseline = _prepare(data, plan, asdict(opened.info))
        trainable = tune.with_resources(
            tune.with_parameters(
                _trial, data=data, plan=plan, method=method, ground=ground, baseline=baseline
            ),
            {"cpu": 1},
        )
        tuner = _tuner(
            trainable,
            out,
            weights=weights,
            trials=trials or TRIALS,
            workers=workers,
            seed=plan.fit.seed,
        )
        found = tuner.fit()
    if found.errors:
        raise TrainingError(
            f"{len(found.errors)} of {len(found)} trials failed, the first with: "
            f"{found.errors[0]}. The same command tries again."
        )
    parts = [_read(result) for result in found]
    parts.sort(key=lambda part: part.protocol["fit"]["weight"])
    merged = _merge(baseline, parts)
    merged.write(out / _RESULTS_FILE)
    write_report(Analysis.of(merged), out)
    return _report(merged, parts, method=method, out=out)


def _prepare(data: Data, plan: ComparePlan, about: dict[str, Any]) -> tuple[Ground, Results]:
    """Version 0, the consumers and the baselines, as Ray tasks."""
    ground = prepare_ground(data, plan, RayTasks())
    baseline = compare_methods(data, plan, about=about, runner=RayTasks(), ground=ground)
    refuse_failures(baseline.failures)
    return ground, baseline


def _tuner(
    trainable: Any,
    out: Path,
    *,
    weights: Sequence[float],
    trials: int,
    workers: int | None,
    seed: int,
) -> tune.Tuner:
    experiment = out.resolve() / _EXPERIMENT
    if tune.Tuner.can_restore(str(experiment)):
        log.info("going on with the trials in %s", experiment)
        return tune.Tuner.restore(str(experiment), trainable=trainable, restart_errored=True)
    space: dict[str, Any] = {}
    searcher = None
    if weights:
        space["weight"] = tune.grid_search(list(weights))
    else:
        space["weight"] = tune.loguniform(*RANGE)
        searcher = OptunaSearch(
            metric=["intended_pct", "unintended_pct"], mode=["max", "max"], seed=seed
        )
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=1 if weights else trials,
            max_concurrent_trials=workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name=_EXPERIMENT, storage_path=str(experiment.parent), verbose=0),
    )


def _trial(
    config: dict[str, Any],
    *,
    data: Data,
    plan: ComparePlan,
    method: str,
    ground: Ground,
    baseline: Results,
) -> None:
    """What one trial runs: all versions with one λ, judged on both sides."""
    weight = float(config["weight"])
    plan = replace(plan, methods=(method,), fit=replace(plan.fit, weight=weight))
    results = compare_methods(data, plan, about={}, ground=ground)
    refuse_failures(results.failures)
    row = _against(baseline, results)
    with tempfile.TemporaryDirectory() as folder:
        results.write(Path(folder) / _RESULTS_FILE)
        tune.report(asdict(row), checkpoint=tune.Checkpoint.from_directory(folder))


def _read(result: tune.Result) -> Results:
    with result.checkpoint.as_directory() as folder:
        return Results.load(Path(folder) / _RESULTS_FILE)


def _against(baseline: Results, results: Results) -> Summary:
    """The one method of `results`, in percent of the baselines."""
    (row,) = results.summary
    records = (*baseline.records, *results.records)
    return summarise(records, (*BASELINES, row.method))[-1]


def _merge(baseline: Results, parts: Sequence[Results]) -> Results:
    """One comparison in which every λ is a method of its own."""
    records: list[Record] = list(baseline.records)
    maps: list[MapFigures] = list(baseline.maps)
    replicates: list[Replicates] = list(baseline.replicates)
    costs = {row.method: _cost(row) for row in baseline.summary}
    for part in parts:
        name = f"λ = {part.protocol['fit']['weight']:.3g}"
        records += [replace(record, method=name) for record in part.records]
        maps += [replace(figures, method=name) for figures in part.maps]
        replicates += [replace(drawn, method=name) for drawn in part.replicates]
        costs[name] = _cost(part.summary[0])
    return replace(
        baseline,
        protocol={**baseline.protocol, "methods": list(costs)},
        records=tuple(records),
        maps=tuple(maps),
        replicates=tuple(replicates),
        summary=summarise(records, list(costs), costs=costs, replicates=replicates),
    )


def _cost(row: Summary) -> Cost:
    return Cost(fit_seconds=row.fit_seconds or 0.0, peak_rss_mb=row.peak_rss_mb or 0.0)


def _report(merged: Results, parts: Sequence[Results], *, method: str, out: Path) -> SearchReport:
    rows = merged.summary[len(BASELINES) :]
    best = max(range(len(rows)), key=lambda n: rows[n].total_pct or float("-inf"))
    weights = [part.protocol["fit"]["weight"] for part in parts]
    return SearchReport(
        method=method,
        best_weight=weights[best],
        trials=tuple(
            Trial(
                weight=weight,
                intended_pct=row.intended_pct,
                unintended_pct=row.unintended_pct,
                total_pct=row.total_pct,
                alignment_error=row.alignment_error,
                on_front=not any(_beats(other, row) for other in rows),
            )
            for weight, row in zip(weights, rows, strict=True)
        ),
        out=str(out),
    )


def _beats(other: Summary, row: Summary) -> bool:
    """Is `other` at least as good on both sides, and better on one?"""
    theirs, ours = ((part.intended_pct or 0.0, part.unintended_pct or 0.0) for part in (other, row))
    return theirs != ours and all(a >= b for a, b in zip(theirs, ours, strict=True))
