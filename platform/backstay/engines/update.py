"""`backstay update`: fit the next version of a space, evaluate it, publish it."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch

from backstay.compat.maps import BackwardMap, Vectors
from backstay.compat.methods import find_method
from backstay.datasets.dataset import Dataset, Interactions
from backstay.datasets.timeline import Step, step
from backstay.engines.fit import FitRun, fit_here, fit_on_ray
from backstay.engines.update_config import UpdateConfig
from backstay.engines.watch import watching
from backstay.errors import NotFoundError, UsageError
from backstay.evaluation.metrics.alignment import alignment_error
from backstay.evaluation.metrics.ranking import recall_score
from backstay.models.trained import TrainedModel
from backstay.registry.manifest import FIT_REPORT
from backstay.registry.store import Registry, Space
from backstay.storage.files import open_files
from backstay.training.request import FitRequest, Predecessor, VersionPlan
from backstay.training.version import FittedVersion

log = logging.getLogger("backstay.update")

FIRST_DIM, DIM_GROWTH = 256, 64
"""The paper's D_0, and the dimensions that each later version adds."""


@dataclass(frozen=True, kw_only=True)
class UpdateReport:
    """The result of an update."""

    space: str
    version: int
    method: str
    dim: int
    rows: dict[str, int]  # per entity
    metrics: Mapping[str, object]
    run: str
    manifest_sha256: str


def update(config: UpdateConfig) -> UpdateReport:
    """Fit the next version on the timeline up to `config.until` and publish it.

    After a crash, the same call resumes the fit from its last checkpoint, or finishes the
    publication. After success, the same call publishes one more version, unless `run_name` is set.

    Raises RegistryError where the space's newest version cannot be extended, VersionExistsError
    where another process publishes first (the fitted files stay staged).
    """
    data = Dataset.open(config.dataset)
    space = Registry(config.registry).space(config.space)
    published = space.versions()
    version = published[-1] + 1 if published else 0
    if published and space.manifest(published[-1]).run_id == config.run_name:
        log.info("run %s has published version %d already", config.run_name, published[-1])
        return _report(space, published[-1])
    interactions = data.interactions()
    attributes = data.attributes(interactions.item_ids)
    snapshot = step(interactions, version, config.until, min(config.until + config.window, 1.0))
    plan = VersionPlan(
        method=find_method(config.method),
        dim=config.dim or _default_dim(space, version),
        layers=config.layers or (2 if version < 2 else 3),  # noqa: PLR2004  (the paper's)
        fit=config.fit,
        architecture=config.architecture,
    )
    run = config.run_name or _run_name(config, plan, space, version, data)
    log.info(
        "%s version %d by %s: %d training and %d validation interactions, %d users, %d items",
        config.space,
        version,
        config.method,
        len(snapshot.train),
        len(snapshot.validation),
        snapshot.n_users,
        snapshot.n_items,
    )
    request = FitRequest(
        step=snapshot,
        attributes=attributes,
        plan=plan,
        previous=_predecessor(space, version, plan),
    )
    root = config.checkpoints or f"{config.registry}/{config.space}/runs"
    fitted = _fit(request, config, run=run, root=root)
    _publish(
        space,
        version,
        config=config,
        run=run,
        data=data,
        interactions=interactions,
        request=request,
        fitted=fitted,
    )
    open_files(root).remove(run)
    return _report(space, version)


def _report(space: Space, version: int) -> UpdateReport:
    manifest = space.manifest(version)
    return UpdateReport(
        space=space.name,
        version=version,
        method=manifest.method,
        dim=manifest.dim,
        rows={name: entity.rows for name, entity in manifest.entities.items()},
        metrics=space.metrics(version),
        run=manifest.run_id,
        manifest_sha256=manifest.sha256,
    )


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
    space: Space,
    version: int,
    *,
    config: UpdateConfig,
    run: str,
    data: Dataset,
    interactions: Interactions,
    request: FitRequest,
    fitted: FittedVersion,
) -> None:
    """Evaluate the fitted version, stage its files, and publish it as version k."""
    snapshot = request.step
    z = fitted.model.embed(snapshot, request.attributes)
    draft = space.draft(version, run_id=run)
    draft.write_model(*fitted.model.to_parts())
    backward = None
    if fitted.matrix is not None:
        backward = BackwardMap(space.name, version, version - 1, fitted.matrix)
        draft.write_backward(backward)
    users = interactions.user_ids[: snapshot.n_users], z[: snapshot.n_users]
    items = interactions.item_ids[: snapshot.n_items], z[snapshot.n_users :]
    draft.write_table("user", [users])
    draft.write_table("item", [items])
    draft.write_metrics(
        {
            "recall@50": _recall(snapshot, z),
            "validation_interactions": len(snapshot.validation),
            "alignment_error": _alignment_errors(space, version, backward, z, request),
            "fit_seconds": round(fitted.seconds, 3),
        }
    )
    settings = {
        **asdict(config),
        "dataset": str(config.dataset),
        "log_dir": config.log_dir and str(config.log_dir),
        "layers": request.plan.layers,
        "fit": asdict(request.plan.fit),
    }
    report = {"space": space.name, "version": version, "method": config.method} | {
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
        dim=z.shape[1],
    )


def _recall(snapshot: Step, z: npt.NDArray[np.float32]) -> float | None:
    score = recall_score(snapshot)
    return score(torch.from_numpy(z)) if score else None


def _alignment_errors(
    space: Space,
    version: int,
    backward: BackwardMap | None,
    z: npt.NDArray[np.float32],
    request: FitRequest,
) -> dict[str, float]:
    """Mean ‖z̃_j - z_j*‖₂ over the snapshot, for j = k - 1 and j = 0.

    z_j* is M_j run on this snapshot. A version without a model or a chain is left out.
    """
    errors: dict[str, float] = {}
    if backward is None:
        return errors
    vectors = backward.convert(Vectors(space.name, version, z))
    for target in sorted({0, version - 1}):
        try:
            converted = space.chain(version - 1, target).convert(vectors)
            model = _stored_model(space, target)
        except NotFoundError:
            continue
        reference = model.embed(request.step, request.attributes)
        errors[f"to_version_{target}"] = alignment_error([converted.values], [reference])
    return errors


def _predecessor(space: Space, version: int, plan: VersionPlan) -> Predecessor | None:
    """The model of version k - 1, with the maps and models of older versions that the fit reads."""
    if version == 0:
        return None
    matrices = []
    for older in range(version - 1, 0, -1):
        try:
            matrices.append(space.backward_map(older).matrix)
        except NotFoundError:
            break  # published without a map: no chain reaches the versions below it
    models = []
    for number in range(version - 2, -1, -1) if plan.solves_for_all else ():
        try:
            models.append(_stored_model(space, number))
        except NotFoundError:
            break  # retired
    return Predecessor(_stored_model(space, version - 1), tuple(matrices), tuple(models))


def _stored_model(space: Space, version: int) -> TrainedModel:
    stored = space.model(version)
    return TrainedModel.from_parts(stored.config, stored.weights, stored.vocabulary)


def _default_dim(space: Space, version: int) -> int:
    return space.manifest(version - 1).dim + DIM_GROWTH if version else FIRST_DIM


def _run_name(
    config: UpdateConfig, plan: VersionPlan, space: Space, version: int, data: Dataset
) -> str:
    """A name that is the same for the same update of the same data and parent, which resumes."""
    parent = space.manifest(version - 1).sha256 if version else None
    shape = {
        "plan": asdict(plan),
        "until": [config.until, config.window],
        "data": data.info.fingerprint,
        "parent": parent,
    }
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
    return f"{config.space}-v{version}-{digest[:12]}"
