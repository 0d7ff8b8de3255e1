"""`backstay update`: fit the next version of a space, judge it, publish it."""

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backstay.compat.maps import BackwardMap, Vectors
from backstay.compat.methods import METHODS, find_method
from backstay.datasets.dataset import Dataset, Interactions
from backstay.datasets.timeline import Step, step
from backstay.engines.fit import CHECKPOINT_SECONDS, Problem, fit_here, fit_on_ray
from backstay.engines.watch import watching
from backstay.errors import NotFoundError, UsageError
from backstay.evaluation.metrics.alignment import alignment_error
from backstay.evaluation.metrics.ranking import recall_score
from backstay.models.trained import TrainedModel
from backstay.registry.manifest import FIT_REPORT
from backstay.registry.store import Registry, Space
from backstay.storage.files import open_files
from backstay.training.config import RECIPES, FitConfig, Recipe, Sampling
from backstay.training.version import FittedVersion, Predecessor, VersionPlan

log = logging.getLogger("backstay.update")

FIRST_DIM, DIM_GROWTH = 256, 64
"""The paper's D_0, and by how much each later version is wider."""


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """One update, as it is asked for."""

    registry: str  # root of the registry: path or URL
    space: str
    dataset: Path  # dataset folder
    until: float  # position on the timeline up to which the version trains
    window: float = 0.1  # length of the timeline after `until` that judges it
    method: str = "bc-aligner"
    weight: float | None = None  # λ of the alignment loss; None: the profile's
    dim: int | None = None  # D_k; None: 256 at first, then 64 more than the version before
    layers: int | None = None  # None: 2 for versions 0 and 1, 3 from then on
    profile: Recipe = "fast"  # the recipe that the options below may change
    architecture: str = "pinsage"
    epochs: int | None = None  # None, here and below: the profile's
    batch_size: int | None = None
    evaluate_every: int | None = None  # epochs between two looks at the recall
    sampling: Sampling | None = None  # whole graphs or sampled neighbours; auto: by the size
    fan_out: int | None = None  # neighbours a node hears per layer, where they are sampled
    groups: int | None = None  # graphs of a batch, where they are sampled: the most workers
    seed: int = 42
    workers: int | tuple[int, int] | None = None
    """Ray Train workers, or the least and the most of them; 0: this process; None: 1 on a cluster,
    else 0."""
    gpu: bool = False  # one GPU for each worker
    checkpoints: str | None = None  # path or URL; None: <registry>/<space>/runs
    checkpoint_seconds: float = CHECKPOINT_SECONDS  # between two checkpoints
    log_dir: Path | None = None  # folder for TensorBoard's events and fit_report.json
    run_name: str | None = None  # None: made of everything above that shapes the version

    def __post_init__(self) -> None:
        if not find_method(self.method).publishable:
            raise UsageError(
                f"{self.method} leads back by a map with an offset, or by one for users and one "
                "for items. Such maps can be compared, not published; expected one of "
                f"{', '.join(name for name, method in METHODS.items() if method.publishable)}."
            )
        if not 0 < self.until <= 1:
            raise UsageError(f"until must be a position in (0, 1], found {self.until}.")
        if not 0 < self.window <= 1:
            raise UsageError(f"window must be a length in (0, 1], found {self.window}.")

    @property
    def fit(self) -> FitConfig:
        """What the loop is told."""
        recipe = RECIPES[self.profile]
        changes: dict[str, Any] = {
            "batch_size": self.batch_size,
            "group_size": self.batch_size and -(-self.batch_size // (self.groups or recipe.groups)),
            "evaluate_every": self.evaluate_every,
            "sampling": self.sampling,
            "fan_out": self.fan_out,
            "groups": self.groups,
            "weight": self.weight,
            "seed": self.seed,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(recipe, **given).lasting(self.epochs)


@dataclass(frozen=True, kw_only=True)
class UpdateReport:
    """What an update gives."""

    space: str
    version: int
    method: str
    dim: int
    rows: dict[str, int]  # per entity
    metrics: dict[str, Any]
    run: str
    manifest_sha256: str


def update(config: UpdateConfig) -> UpdateReport:
    """Fit the next version on the timeline up to `config.until` and publish it.

    The same call made again after a crash resumes the fit from its last checkpoint, or finishes
    the publication; made again after success it would publish one more version.

    Raises RegistryError where the space's newest version can't be built upon, VersionExistsError
    where somebody else publishes first (the fitted files stay staged).
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
    problem = Problem(snapshot, attributes, plan, _predecessor(space, version, plan))
    root = config.checkpoints or f"{config.registry}/{config.space}/runs"
    fitted = _fit(problem, config, run=run, root=root)
    _publish(
        space,
        version,
        config=config,
        run=run,
        data=data,
        interactions=interactions,
        problem=problem,
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


def _fit(problem: Problem, config: UpdateConfig, *, run: str, root: str) -> FittedVersion:
    workers = config.workers
    if workers is None:
        workers = 1 if os.environ.get("RAY_ADDRESS") else 0
    most = workers[1] if isinstance(workers, tuple) else workers
    sampled = config.fit.samples(problem.step.n_users + problem.step.n_items)
    if sampled and most > config.fit.groups:
        raise UsageError(
            "workers share the groups of a sampled batch: expected at most "
            f"{config.fit.groups} workers, found {most}. Ask for fewer, or for more groups."
        )
    mode = "sampled neighbours" if sampled else "the whole graph"
    with watching(config.log_dir) as watch:
        options: dict[str, Any] = {
            "files": open_files(root),
            "folder": run,
            "gpu": config.gpu,
            "watch": watch,
            "checkpoint_seconds": config.checkpoint_seconds,
        }
        if workers == 0:
            log.info("fitting in this process on %s; --workers N fits on Ray Train", mode)
            return fit_here(problem, **options)
        count = " to ".join(map(str, workers)) if isinstance(workers, tuple) else str(workers)
        noun = "worker" if most == 1 else "workers"
        log.info("fitting on Ray Train with %s %s, on %s", count, noun, mode)
        if not sampled and most > 1:
            log.warning("a graph this small is run whole by every worker: one is as fast as many")
        return fit_on_ray(problem, workers=workers, **options)


def _publish(
    space: Space,
    version: int,
    *,
    config: UpdateConfig,
    run: str,
    data: Dataset,
    interactions: Interactions,
    problem: Problem,
    fitted: FittedVersion,
) -> None:
    """Judge the fitted version, stage its files, and make it version k."""
    snapshot = problem.step
    z = fitted.model.embed(snapshot, problem.attributes)
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
            "alignment_error": _alignment_errors(space, version, backward, z, problem),
            "fit_seconds": round(fitted.seconds, 3),
        }
    )
    settings = {
        **asdict(config),
        "dataset": str(config.dataset),
        "log_dir": config.log_dir and str(config.log_dir),
        "layers": problem.plan.layers,
        "fit": asdict(problem.plan.fit),
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
    problem: Problem,
) -> dict[str, float]:
    """Mean ‖z̃_j - z_j*‖₂ over the snapshot, for j = k - 1 and j = 0, where both are there.

    z_j* is M_j run on this snapshot; versions whose model is retired or whose chain is broken are
    left out.
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
        reference = model.embed(problem.step, problem.attributes)
        errors[f"to_version_{target}"] = alignment_error([converted.values], [reference])
    return errors


def _predecessor(space: Space, version: int, plan: VersionPlan) -> Predecessor | None:
    """Version k - 1 as the fit needs it, with the maps below it as far as they reach."""
    if version == 0:
        return None
    matrices = []
    for older in range(version - 1, 0, -1):
        try:
            matrices.append(space.backward_map(older).matrix)
        except NotFoundError:
            break  # published without a map: versions below it can't be reached anyway
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
    """The same update of the same data upon the same parent has the same name, and resumes."""
    parent = space.manifest(version - 1).sha256 if version else None
    shape = {
        "plan": asdict(plan),
        "until": [config.until, config.window],
        "data": data.info.fingerprint,
        "parent": parent,
    }
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
    return f"{config.space}-v{version}-{digest[:12]}"
