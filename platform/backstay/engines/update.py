"""`backstay update`: fit the next version of a space, evaluate it, publish it."""

import json
import logging
import os
from dataclasses import asdict
from typing import cast

from backstay.datasets.dataset import Dataset
from backstay.engines.candidate import Candidate, evaluate
from backstay.engines.fit import FitRun, fit_here, fit_on_ray
from backstay.engines.update_config import UpdateConfig
from backstay.engines.update_plan import plan_update, published_request
from backstay.engines.version_report import VersionReport, promoted_report
from backstay.engines.watch import watching
from backstay.errors import UsageError
from backstay.evaluation.contracts.check import run_contracts
from backstay.evaluation.contracts.guard import (
    Finding,
    broken_contract,
    refuse,
    worse_alignment,
    worse_recall,
)
from backstay.registry.aliases import check_alias
from backstay.registry.draft import Draft
from backstay.registry.manifest import FIT_REPORT
from backstay.registry.store import Registry
from backstay.storage.files import open_files
from backstay.training.request import FitRequest
from backstay.training.version import FittedVersion

log = logging.getLogger("backstay.update")


def update(config: UpdateConfig) -> VersionReport:
    """Fit the next version on the timeline up to `config.until` and publish it.

    After a crash, the same call resumes the fit from its last checkpoint, or finishes the
    publication. After success, the same call publishes nothing and reports what is published;
    another `run_name` publishes the same request again.

    Raises RegistryError where the guard refuses the candidate or the space's newest version cannot
    be extended, VersionExistsError where another process publishes first (the fitted files stay
    staged).
    """
    data = Dataset.open(config.dataset)
    space = Registry(config.registry).space(config.space)
    request_id = config.request_id(data.info.fingerprint)
    space.finish_commit(space.next_version())
    root = config.checkpoints or f"{config.registry}/{config.space}/runs"
    done = published_request(space, request_id, run_name=config.run_name)
    if done is not None:
        log.info("this request was published already, as version %d; nothing to do", done.version)
        space.draft(done.version, run_id=done.run_id).discard()
        open_files(root).remove(done.run_id)
        return promoted_report(
            space, done.version, promote=config.promote, why="update", published="by an earlier run"
        )
    plan = plan_update(config, data, space)
    request, version = plan.request, plan.version
    if config.promote != "none":
        check_alias(config.promote)
    findings = refuse(plan.findings, what=f"{plan.name} is not fitted", force=config.force)
    run = config.run_name or plan.run_name(request_id)
    log.info(
        "%s by %s: %d training and %d validation interactions, %d users, %d items",
        plan.name,
        config.method,
        len(request.step.train),
        len(request.step.validation),
        request.step.n_users,
        request.step.n_items,
    )
    fitted = _fit(request, config, run=run, root=root)
    candidate = evaluate(space, version, fitted, request, plan.interactions)
    verdicts = run_contracts(space, candidate.vectors(space))
    findings += refuse(
        [*_figures(config, candidate), *map(broken_contract, verdicts)],
        what=f"{plan.name} is not published",
        force=config.force,
    )
    candidate.metrics["guard"] = [asdict(finding) for finding in findings]
    settings = {
        **asdict(config),
        "dataset": str(config.dataset),
        "log_dir": config.log_dir and str(config.log_dir),
        "layers": request.plan.layers,
        "fit": asdict(request.plan.fit),
        "request": request_id,
    }
    draft = space.draft(version, run_id=run)
    if verdicts:
        draft.write_verdicts([asdict(verdict) for verdict in verdicts])
    _publish(draft, candidate, fitted, config=config, data=data, settings=settings)
    open_files(root).remove(run)
    return promoted_report(space, version, promote=config.promote, why="update")


def _figures(config: UpdateConfig, candidate: Candidate) -> list[Finding | None]:
    """The findings on the candidate's figures."""
    before = cast("dict[str, dict[str, float]]", candidate.metrics.get("before", {}))
    return [
        worse_recall(candidate.recall, candidate.recall_before, limit=config.max_recall_loss),
        worse_alignment(
            candidate.alignment,
            before.get("relative_alignment_error", {}),
            limit=config.max_alignment_error,
        ),
    ]


def _fit(request: FitRequest, config: UpdateConfig, *, run: str, root: str) -> FittedVersion:
    workers = config.workers
    if workers is None:
        workers = 1 if os.environ.get("RAY_ADDRESS") else 0
    most = workers[1] if isinstance(workers, tuple) else workers
    sampled = config.fit.samples(request.step.n_users + request.step.n_items)
    if sampled and most > config.fit.groups:
        raise UsageError(
            "--workers: expected at most one worker per group of a sampled batch, at most "
            f"{config.fit.groups} workers, found {most}. Ask for fewer, or for more groups."
        )
    mode = "sampled neighbours" if sampled else "the whole graph"
    with watching(config.log_dir) as watch:
        place = FitRun(
            files=open_files(root),
            folder=run,
            gpu=config.gpu,
            watch=watch,
            checkpoint_seconds=config.checkpoint_seconds,
        )
        if workers == 0:
            log.info("fitting in this process on %s; --workers N fits on Ray Train", mode)
            return fit_here(request, place)
        count = " to ".join(map(str, workers)) if isinstance(workers, tuple) else str(workers)
        noun = "worker" if most == 1 else "workers"
        log.info("fitting on Ray Train with %s %s, on %s", count, noun, mode)
        if not sampled and most > 1:
            log.warning("every worker runs this small graph whole: 1 worker is as fast as many")
        return fit_on_ray(request, place, workers=workers)


def _publish(
    draft: Draft,
    candidate: Candidate,
    fitted: FittedVersion,
    *,
    config: UpdateConfig,
    data: Dataset,
    settings: dict[str, object],
) -> None:
    """Stage the candidate's files beside the verdicts, and publish it."""
    version = candidate.version
    draft.write_model(*fitted.model.to_parts())
    if candidate.backward:
        draft.write_backward(candidate.backward)
    for entity, batch in candidate.tables.items():
        draft.write_table(entity, [batch])
    draft.write_metrics(candidate.metrics)
    report = {"space": config.space, "version": version, "method": config.method} | {
        "config": settings,
        **fitted.report,
    }
    draft.write_fit_report(report)
    if config.log_dir:
        config.log_dir.mkdir(parents=True, exist_ok=True)
        (config.log_dir / FIT_REPORT).write_text(json.dumps(report, indent=2), encoding="utf-8")
    draft.publish(
        parent=version - 1 if version else None,
        method=config.method,
        config=settings,
        dataset_fingerprint=data.info.fingerprint,
        dataset_name=data.info.name,
        until=config.until,
        dim=candidate.z.shape[1],
    )
