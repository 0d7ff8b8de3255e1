"""A search: the usual weights, the trials, the choice, and its costs on later windows."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import ray
import yaml
from ray.exceptions import RayError

from backstay.cluster.session import ray_session
from backstay.datasets.dataset import Dataset
from backstay.engines.compare import RayTasks, read_data
from backstay.engines.run_folder import claim_folder
from backstay.engines.search.config import SearchConfig
from backstay.engines.search.trials import Shared, run_trials
from backstay.errors import BackstayError, TrainingError
from backstay.evaluation.comparison.cell_store import FOLDER, CellStore
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.comparison.run import (
    SharedInputs,
    judge_methods,
    prepare_shared_inputs,
    refuse_failures,
)
from backstay.evaluation.comparison.values import Data, Judgement
from backstay.evaluation.report.search_page import write_search
from backstay.evaluation.search.findings import (
    Attempt,
    SearchFindings,
    recipe,
    select,
)
from backstay.evaluation.search.settings import REFERENCES, TrialSettings, distinct_names
from backstay.evaluation.search.trial import (
    BASELINES,
    Judgements,
    as_results,
    first_versions,
    judge_settings,
)
from backstay.storage.atomic import write_file

log = logging.getLogger("backstay.tune")

RESULTS_FILE = "results.json"
BEST_FILE = "best.yaml"


def search(dataset: Path, *, out: Path, config: SearchConfig) -> SearchFindings:
    """Search the settings of a joint method on the first windows of a timeline.

    The last windows judge the choice, which was made without them. Writes search.json,
    results.json (the trials on the windows that chose), report.html and best.yaml. The same call
    after a crash keeps what is finished.

    Raises TrainingError if a baseline or every trial fails.
    """
    opened, out = Dataset.open(dataset), out.resolve()  # workers have another working directory
    claim_folder(
        out,
        {"search": config.identity(), "data": opened.info.fingerprint},
        result=RESULTS_FILE,
    )
    plan = replace(config.plan, methods=BASELINES)
    data = read_data(opened, plan)
    about = asdict(opened.info)
    with ray_session(cpus=config.workers):
        shared, attempts = _attempts(data, plan, config, out)
        rows = _finished(attempts, shared)
        if not rows:
            reasons = "; ".join(f"{name}: {each.reason}" for name, each in attempts.items())
            raise TrainingError(f"no trial finished ({reasons}). Run the command again.")
        selection = as_results({**shared.baselines, **rows}, plan.until(config.cut), about=about)
        trials, chosen, within = select(
            attempts, selection, rule=config.rule, tolerance=config.tolerance
        )
        judgement = None
        if chosen is not None:
            usual = [trial.name for trial in trials if trial.reference and trial.name in rows]
            settings = {name: attempts[name].settings for name in (chosen.method, *usual)}
            judgement = as_results(
                _judge_later(data, plan, config, shared, settings), plan, about=about
            )
    findings = SearchFindings(
        method=config.method,
        rule=config.rule,
        tolerance=config.tolerance,
        chosen=chosen.method if chosen else None,
        within_tolerance=within,
        selected_on=tuple(range(1, config.cut + 1)),
        judged_on=tuple(range(config.cut + 1, len(plan.dims))),
        trials=trials,
        selection=selection,
        judgement=judgement,
    )
    return _write(findings, plan, out)


def _write(findings: SearchFindings, plan: ComparePlan, out: Path) -> SearchFindings:
    options = recipe(findings, plan)
    if options:
        when = datetime.now(UTC).strftime("%Y-%m-%d")
        head = (
            f"# Chosen by `backstay tune` on {when}: {findings.chosen}.\n"
            "# For `backstay update --config` and `backstay compare --config`.\n"
        )
        text = yaml.safe_dump(options, sort_keys=False)
        write_file(out / BEST_FILE, f"{head}{text}".encode())
    page = write_search(findings, out)
    findings.selection.write(out / RESULTS_FILE)  # last: the run is finished when it is there
    log.info("chose %s; the report is %s", findings.chosen, page)
    return findings


def _attempts(
    data: Data, plan: ComparePlan, config: SearchConfig, out: Path
) -> tuple[Shared, dict[str, Attempt]]:
    """Run the baselines, the usual weights, then all other trials; how each ended, by name."""
    seen, first = first_versions(data, config.cut), plan.until(config.cut)
    selection = range(1, config.cut + 1)
    baselines, inputs = _baselines(seen, first, selection, out)
    shared = Shared(
        data=seen,
        plan=first,
        method=config.method,
        inputs=inputs,
        baselines=baselines,
        references={},
        folder=out / "cells-of-trials",
    )
    held = ray.put(shared)
    whole = ray.remote(num_cpus=1)(_whole_trial)
    ended = ray.get([whole.remote(held, settings) for settings in REFERENCES])
    if not config.weights:  # weights that were asked for are tried to the end
        names = distinct_names(list(REFERENCES))
        finished = [each.settings for each in ended if each.state == "finished"]
        shared = replace(
            shared,
            references={names[each]: shared.judgements(each) for each in finished},
        )
    tried = run_trials(shared, config, out)
    known = {each.settings: each for each in (*ended, *tried)}
    names = distinct_names(list(known))
    by_weight = sorted(known, key=lambda settings: settings.weight)
    return shared, {names[settings]: known[settings] for settings in by_weight}


def _baselines(
    data: Data, plan: ComparePlan, versions: Collection[int], out: Path
) -> tuple[Judgements, SharedInputs]:
    """Fit version 0, train the consumers and judge the baselines."""
    store, runner = CellStore(out / FOLDER), RayTasks()
    inputs = prepare_shared_inputs(data, plan, runner, store=store)
    judged = judge_methods(data, plan, versions=versions, runner=runner, shared=inputs, store=store)
    refuse_failures(judged.failures)
    return judged.judgements, inputs


def _whole_trial(shared: Shared, settings: TrialSettings) -> Attempt:
    """Run a trial to its end; a task of Ray. Returns failures, too."""
    try:
        made = list(shared.trial(settings))
    except (BackstayError, ArithmeticError, RuntimeError, ValueError) as error:
        return Attempt(settings=settings, state="failed", reason=f"{error}")
    return Attempt(settings=settings, state="finished", versions=len(made))


def _finished(attempts: Mapping[str, Attempt], shared: Shared) -> dict[str, tuple[Judgement, ...]]:
    return {
        name: shared.judgements(each.settings)
        for name, each in attempts.items()
        if each.state == "finished"
    }


def _judge_later(
    data: Data,
    plan: ComparePlan,
    config: SearchConfig,
    shared: Shared,
    settings: Mapping[str, TrialSettings],
) -> dict[str, tuple[Judgement, ...]]:
    """Fit the later versions by the baselines and these settings; judge them on their windows."""
    versions = range(config.cut + 1, len(plan.dims))
    baselines, inputs = _baselines(data, plan, versions, shared.folder.parent)
    task = ray.remote(num_cpus=1)(judge_settings)
    held = ray.put(data), ray.put(inputs)
    waiting = {
        name: task.remote(
            held[0],
            plan,
            each,
            versions=set(versions),
            method=config.method,
            shared=held[1],
            store=shared.store(each),
        )
        for name, each in settings.items()
    }
    judged = {name: tuple(row) for name, row in baselines.items()}
    for name, reference in waiting.items():
        try:
            judged[name] = ray.get(reference)
        except RayError as error:
            log.warning("%s could not be judged on the later windows: %s", name, error)
    return judged
