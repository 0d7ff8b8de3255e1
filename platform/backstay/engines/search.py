"""`backstay tune`: Ray Tune searches λ, the weight of the alignment loss.

Each trial fits the versions of a timeline with one λ. All trials share version 0, the baselines and
the consumers, which are computed once before the search.
"""

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Unpack

from ray import tune
from ray.tune.search.optuna import OptunaSearch

from backstay.cluster.output import log_prints
from backstay.cluster.session import ray_session
from backstay.compat.methods import find_method
from backstay.datasets.dataset import Dataset
from backstay.engines.compare import RayTasks, read_data
from backstay.engines.run_folder import claim_folder
from backstay.errors import TrainingError, UsageError
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.analysis.summary import pareto_front, summarise, with_summary
from backstay.evaluation.comparison.plan import ComparePlan, PlanOptions, Profile
from backstay.evaluation.comparison.results import MapFigures, Record, Replicates, Results, Summary
from backstay.evaluation.comparison.run import (
    SharedInputs,
    compare_methods,
    prepare_shared_inputs,
    refuse_failures,
)
from backstay.evaluation.comparison.values import Data
from backstay.evaluation.report.write import write_report

log = logging.getLogger("backstay.tune")

BASELINES = ("fix-m0", "no-bc")
TRIALS = 8
RANGE = (0.05, 64.0)
"""Range of λ in a search, on a logarithmic scale. The paper uses 16, the fast profile 1."""

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
    on_front: bool  # both costs were measured, and no other trial beats this one on both


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """The result of a search, which is also in `out` as files."""

    method: str
    best_weight: float | None  # with the least total cost; None if no trial has a total
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
    **options: Unpack[PlanOptions],
) -> SearchReport:
    """Search λ for a joint method; write the Pareto plot, the table and the records of all trials.

    Tries `weights` if given. Otherwise Optuna chooses `trials` values, with both costs as
    objectives. `options` override the profile: see `ComparePlan.of`. After a crash, the same call
    keeps the finished trials.
    """
    if not find_method(method).joint:
        raise UsageError(
            f"--method: expected a joint method, found {method}, which has no alignment loss."
        )
    if weights and trials:
        raise UsageError("expected either --weights or --trials, not both; leave one out.")
    plan = replace(ComparePlan.of(profile, **options), methods=BASELINES)
    opened = Dataset.open(dataset)
    claim_folder(
        out,
        {"plan": plan.to_dict(), "data": opened.info.fingerprint, "method": method},
        result=_RESULTS_FILE,
    )
    data = read_data(opened, plan)
    with ray_session(cpus=workers):
        shared, baseline = _prepare(data, plan, asdict(opened.info))
        trainable = tune.with_resources(
            tune.with_parameters(
                run_trial, data=data, plan=plan, method=method, shared=shared, baseline=baseline
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
        with log_prints():
            found = tuner.fit()
    if found.errors:
        raise TrainingError(
            f"{len(found.errors)} of {len(found)} trials failed, the first with: "
            f"{found.errors[0]}. Run the same command to try them again."
        )
    parts = [_read(result) for result in found]
    parts.sort(key=lambda part: part.protocol["fit"]["weight"])
    merged = _merge(baseline, parts)
    merged.write(out / _RESULTS_FILE)
    write_report(Analysis.of(merged), out)
    return report_of(merged, parts, method=method, out=out)


def _prepare(
    data: Data, plan: ComparePlan, about: dict[str, object]
) -> tuple[SharedInputs, Results]:
    """Compute version 0, the consumers and the baselines as Ray tasks."""
    shared = prepare_shared_inputs(data, plan, RayTasks())
    baseline = compare_methods(data, plan, about=about, runner=RayTasks(), shared=shared)
    refuse_failures(baseline.failures)
    return shared, baseline


def _tuner(
    trainable: Callable[..., None],
    out: Path,
    *,
    weights: Sequence[float],
    trials: int,
    workers: int | None,
    seed: int,
) -> tune.Tuner:
    experiment = out.resolve() / _EXPERIMENT
    if tune.Tuner.can_restore(str(experiment)):
        log.info("resuming the trials in %s", experiment)
        return tune.Tuner.restore(str(experiment), trainable=trainable, restart_errored=True)
    space = {"weight": tune.grid_search(list(weights)) if weights else tune.loguniform(*RANGE)}
    searcher = None
    if not weights:
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


def run_trial(
    config: dict[str, float],
    *,
    data: Data,
    plan: ComparePlan,
    method: str,
    shared: SharedInputs,
    baseline: Results,
) -> None:
    """Run one trial: fit all versions with one λ and measure both costs."""
    fit = replace(plan.fit, weight=float(config["weight"]))
    plan = replace(plan, methods=(method,), fit=fit)
    results = compare_methods(data, plan, about={}, shared=shared)
    refuse_failures(results.failures)
    row = _against(baseline, results)
    with tempfile.TemporaryDirectory() as folder:
        results.write(Path(folder) / _RESULTS_FILE)
        tune.report(asdict(row), checkpoint=tune.Checkpoint.from_directory(folder))


def _read(result: tune.Result) -> Results:
    with result.checkpoint.as_directory() as folder:
        return Results.load(Path(folder) / _RESULTS_FILE)


def _against(baseline: Results, results: Results) -> Summary:
    """The summary of the only method in `results`, in percent of the baselines."""
    (row,) = results.summary
    records = (*baseline.records, *results.records)
    return summarise(records, (*BASELINES, row.method))[-1]


def _merge(baseline: Results, parts: Sequence[Results]) -> Results:
    """One comparison that has each λ as a method."""
    records: list[Record] = list(baseline.records)
    maps: list[MapFigures] = list(baseline.maps)
    replicates: list[Replicates] = list(baseline.replicates)
    rows = list(baseline.summary)
    for part in parts:
        name = f"λ = {part.protocol['fit']['weight']:.3g}"
        records += [replace(record, method=name) for record in part.records]
        maps += [replace(figures, method=name) for figures in part.maps]
        replicates += [replace(drawn, method=name) for drawn in part.replicates]
        rows.append(replace(part.summary[0], method=name))
    merged = replace(
        baseline,
        protocol={**baseline.protocol, "methods": [row.method for row in rows]},
        records=tuple(records),
        maps=tuple(maps),
        replicates=tuple(replicates),
        summary=tuple(rows),
    )
    return with_summary(merged)


def report_of(merged: Results, parts: Sequence[Results], *, method: str, out: Path) -> SearchReport:
    """The trials with their costs, the Pareto front and the weight with the best total."""
    rows = merged.summary[len(BASELINES) :]
    front = pareto_front(rows)
    trials = tuple(
        Trial(
            weight=part.protocol["fit"]["weight"],
            intended_pct=row.intended_pct,
            unintended_pct=row.unintended_pct,
            total_pct=row.total_pct,
            alignment_error=row.alignment_error,
            on_front=row.method in front,
        )
        for part, row in zip(parts, rows, strict=True)
    )
    totals = {trial.weight: trial.total_pct for trial in trials if trial.total_pct is not None}
    best = max(totals, key=totals.__getitem__, default=None)
    return SearchReport(method=method, best_weight=best, trials=trials, out=str(out))
