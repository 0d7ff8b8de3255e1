"""The trials on Ray Tune: sampled by Optuna, several at a time, resumed after a crash."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search.optuna import OptunaSearch

from backstay.cluster.environment import environment
from backstay.cluster.output import log_prints
from backstay.engines.search.config import SearchConfig
from backstay.evaluation.comparison.cell_store import CellStore
from backstay.evaluation.comparison.keys import JudgeKey
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.comparison.run import SharedInputs
from backstay.evaluation.comparison.values import Data, Judgement
from backstay.evaluation.report.words import percent
from backstay.evaluation.search.findings import Attempt
from backstay.evaluation.search.settings import (
    EPOCHS,
    NEW_DIMS,
    RATES,
    WEIGHTS,
    TrialSettings,
)
from backstay.evaluation.search.trial import Judgements, beside, hopeless, run_trial

log = logging.getLogger("backstay.tune")

_EXPERIMENT = "trials"
_SNAPSHOT_SECONDS = "TUNE_GLOBAL_CHECKPOINT_S"  # between two, from which the search resumes
_RETRIES = 1  # of a trial whose process died, or that failed
_TRIAL = "this trial"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Inputs shared by all trials; one copy in Ray's object store."""

    data: Data  # of the selection windows only
    plan: ComparePlan
    method: str
    inputs: SharedInputs
    baselines: Judgements
    references: Judgements  # of the usual weights, by name
    folder: Path  # of the trials' cells

    def store(self, settings: TrialSettings) -> CellStore:
        """The cells of one trial."""
        return CellStore(self.folder / settings.folder)

    def trial(self, settings: TrialSettings) -> Iterator[Judgement]:
        """Run one trial; yields its judgements, ascending by version."""
        return run_trial(
            self.data,
            self.plan,
            settings,
            method=self.method,
            shared=self.inputs,
            store=self.store(settings),
        )

    def judgements(self, settings: TrialSettings) -> tuple[Judgement, ...]:
        """The stored judgements of one trial."""
        store = self.store(settings)
        found = (store.find(JudgeKey(k, self.method)) for k in range(1, len(self.data.steps)))
        return tuple(part for part in found if part)


def run_trials(shared: Shared, config: SearchConfig, out: Path) -> list[Attempt]:
    """Run all trials but the references; return how each ended, in the order they began.

    The same call after a crash goes on: finished trials are kept, and others begin again after
    their last finished cell. Trials that failed are tried again.
    """
    experiment = out / _EXPERIMENT
    trainable = tune.with_resources(tune.with_parameters(_run, shared=shared), {"cpu": 1})
    snapshots = {_SNAPSHOT_SECONDS: os.environ.get(_SNAPSHOT_SECONDS, "1")}
    with log_prints(), environment(snapshots):
        if tune.Tuner.can_restore(str(experiment)):
            log.info("going on with the trials in %s", experiment)
            tuner = tune.Tuner.restore(str(experiment), trainable=trainable, restart_errored=True)
        else:
            tuner = _new_tuner(trainable, config, experiment)
        found = tuner.fit()
    attempts = (_attempt(result, config) for result in found)
    return [attempt for attempt in attempts if attempt.versions or attempt.state == "failed"]


def _new_tuner(trainable: Any, config: SearchConfig, experiment: Path) -> tune.Tuner:
    space: dict[str, Any] = _space(config)
    searcher = None
    if config.weights:
        space = {"weight": tune.grid_search(list(config.weights))}
    else:
        searcher = OptunaSearch(
            metric=["intended_pct", "unintended_pct"],
            mode=["max", "max"],
            seed=config.plan.fit.seed,
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=1 if config.weights else config.searched or -1,
            time_budget_s=config.minutes and 60 * config.minutes,
            max_concurrent_trials=config.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=_EXPERIMENT,
            storage_path=str(experiment.parent),
            failure_config=tune.FailureConfig(max_failures=_RETRIES),
            callbacks=[_Progress(config.searched)],
            verbose=0,
        ),
    )


def _space(config: SearchConfig) -> dict[str, Any]:
    epochs = config.plan.fit.epochs
    least, most = (max(1, round(factor * epochs)) for factor in EPOCHS)
    space = {
        "weight": tune.loguniform(*WEIGHTS),
        "rate": tune.loguniform(*RATES),
        "epochs": tune.lograndint(least, most + 1),
        "new-dims": tune.choice([None, *NEW_DIMS]),
    }
    return {name.replace("-", "_"): space[name] for name in dict.fromkeys(config.parameters)}


class _Progress(tune.Callback):  # type: ignore[misc]  # untyped in Ray
    """Logs each trial as it ends."""

    def __init__(self, trials: int | None) -> None:
        self._of = f" of {trials}" if trials else ""

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """See tune.Callback."""
        del iteration, info
        self._log(trials, trial, "")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """See tune.Callback; called when no retry is left."""
        del iteration, info
        self._log(trials, trial, "failed, ")

    def _log(self, trials: list[Trial], trial: Trial, how: str) -> None:
        last = trial.last_result or {}
        log.info(
            "trial %d%s done: %s: %srecommendation %s, consumers %s, after version %s",
            sum(each is trial or each.is_finished() for each in trials),  # earlier runs' too
            self._of,
            settings_of(trial.config).name,
            how,
            percent(last.get("intended_pct")),
            percent(last.get("unintended_pct")),
            last.get("version", 0),
        )


def settings_of(sampled: Mapping[str, Any]) -> TrialSettings:
    """The settings of a trial from the values that Tune sampled."""
    plain = {name: getattr(value, "item", lambda v=value: v)() for name, value in sampled.items()}
    return TrialSettings(**{"weight": 1.0, **plain})


def _run(sampled: dict[str, Any], *, shared: Shared) -> None:
    """Run one trial and report its costs after each version."""
    settings = settings_of(sampled)
    others = {**shared.baselines, **shared.references}
    made = []
    for judgement in shared.trial(settings):
        made.append(judgement)
        found = beside(others, made, shared.plan, name=_TRIAL)
        last = judgement.version == len(shared.data.steps) - 1
        reason = None if last else hopeless(found, name=_TRIAL, references=tuple(shared.references))
        row = asdict(found.summary[-1])
        figures = {name: row[name] for name in ("intended_pct", "unintended_pct", "total_pct")}
        tune.report({"version": judgement.version, "reason": reason, **figures})
        if reason:
            return


def _attempt(result: tune.Result, config: SearchConfig) -> Attempt:
    settings = settings_of(result.config or {})
    metrics = result.metrics or {}
    version = int(metrics.get("version", 0))
    if result.error is not None:
        reason = str(getattr(result.error, "cause", None) or result.error).strip()
        return Attempt(settings=settings, state="failed", reason=_last_line(reason))
    if version == config.cut:
        return Attempt(settings=settings, state="finished", versions=version)
    reason = metrics.get("reason") or "the time was over"
    return Attempt(settings=settings, state="stopped", reason=reason, versions=version)


def _last_line(text: str) -> str:
    """The last line of a traceback, which names the error."""
    return text.splitlines()[-1].strip() if text else "unknown"
