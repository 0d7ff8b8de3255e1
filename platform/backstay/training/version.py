"""One version from arrays to arrays: the model and the backward map of an update method."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from backstay.compat.closed_form import agree, fit_maps
from backstay.compat.maps import EntityMaps
from backstay.compat.methods import Method
from backstay.datasets.dataset import Attributes, Vocabulary
from backstay.datasets.timeline import Step
from backstay.errors import UsageError
from backstay.models.architectures import ARCHITECTURES, build_model, model_weights
from backstay.models.inference import embed
from backstay.models.protocol import EmbeddingModel, ModelConfig
from backstay.models.snapshot import Snapshot
from backstay.models.trained import TrainedModel
from backstay.training.alignment import Alignment, fresh_map
from backstay.training.config import FitConfig
from backstay.training.extension import Extension, undo
from backstay.training.fit import FitState, fit
from backstay.training.known import Known
from backstay.training.learner import Score
from backstay.training.progress import Watch
from backstay.training.warm_start import inherit, keep_first
from backstay.training.workers import ALONE, Workers

Checkpoint = Callable[[dict[str, FitState]], None]


@dataclass(frozen=True)
class Predecessor:
    """Version k - 1, as version k needs it."""

    model: TrainedModel
    matrices: tuple[npt.NDArray[np.float32], ...]
    """B_{k-1}, …, B_1: newest first, as far as they are linear."""
    older: tuple[TrainedModel, ...] = ()
    """M_{k-2}, …, M_0: newest first, as far as they are still there and the plan asks for them."""


@dataclass(frozen=True)
class VersionPlan:
    """How a version is fitted."""

    method: Method
    dim: int  # D_k
    layers: int
    fit: FitConfig = field(default_factory=FitConfig)
    map_epochs: int | None = None  # of a post-hoc map; None: as many as the model's
    tuning_epochs: int | None = None  # of a model that is trained on; None: as many as of others
    architecture: str = "pinsage"

    @property
    def solves_for_all(self) -> bool:
        """The map is solved with all older versions in view, whose models that takes."""
        method = self.method
        linear = method.joint and method.map == "linear"
        return linear and method.alignment == "multi" and self.fit.solve_maps


@dataclass(frozen=True)
class Prepared:
    """The constant inputs of a fit, made once; plain arrays that workers can share."""

    snapshot: Snapshot
    vocabulary: Vocabulary
    known: npt.NDArray[np.float32] | None  # z_{k-1} (N, D_{k-1}), where the method needs it
    heard: tuple[Snapshot, ...] = ()
    """The graph as each network of M_{k-1} reads it, oldest first, where it meets samples."""

    def before(self, previous: Predecessor) -> Known | None:
        """What is known of z_{k-1}, in this process; shares the memory of the arrays."""
        if self.known is None:
            return None
        return Known(_tensor(self.known), previous.model if self.heard else None, self.heard)


@dataclass(frozen=True)
class FittedVersion:
    """What fitting a version gives."""

    model: TrainedModel
    backward: EntityMaps | None  # from z_k to z_{k-1}; None for version 0 and no-bc
    curves: dict[str, list[dict[str, float]]]  # per phase: one entry per evaluation
    seconds: float
    seconds_by: dict[str, dict[str, float]] = field(default_factory=dict)  # per phase: what for
    peak_rss_mb: float = 0.0  # of the process that led the fit, MB of 10⁶ bytes; 0: not measured

    @property
    def matrix(self) -> npt.NDArray[np.float32] | None:
        """B_k (D_{k-1}, D_k), where the map is one linear map for all entities; None without one.

        Raises UsageError for any other map.
        """
        return None if self.backward is None else self.backward.matrix

    @property
    def report(self) -> dict[str, Any]:
        """How the fit went, as `fit_report.json` tells it."""
        return {
            "seconds": self.seconds,
            "peak_rss_mb": self.peak_rss_mb,
            "phases": {
                name: {"curve": curve, "seconds_by": self.seconds_by.get(name, {})}
                for name, curve in self.curves.items()
            },
        }


def prepare(
    step: Step,
    attributes: Attributes,
    plan: VersionPlan,
    *,
    previous: Predecessor | None,
    fitted: TrainedModel | None = None,
    device: str = "cpu",
) -> Prepared:
    """Build the graph of a step, and embed it with the version before where that is a target.

    Raises UsageError where the plan doesn't fit the version before.
    """
    _check_width(plan, previous)
    named = attributes.with_ids() if ARCHITECTURES[plan.architecture].knows_items else attributes
    vocabulary = fitted.vocabulary if fitted else named.vocabulary(items=step.n_known_items)
    snapshot = Snapshot.of(step, attributes.reindexed(vocabulary))
    if previous is None or not plan.method.needs_known:
        return Prepared(snapshot, vocabulary, None)
    known = previous.model.embed(step, attributes, device=device)
    heard: tuple[Snapshot, ...] = ()
    if not plan.method.posthoc and plan.fit.samples(snapshot.n_nodes):
        readers = previous.model.lineage
        heard = tuple(snapshot.read_as(attributes.reindexed(part.vocabulary)) for part in readers)
    return Prepared(snapshot, vocabulary, known, heard)


def fit_version(
    step: Step,
    attributes: Attributes,
    plan: VersionPlan,
    *,
    previous: Predecessor | None,
    score: Score | None,
    fitted: TrainedModel | None = None,
    prepared: Prepared | None = None,
    device: str = "cpu",
    workers: Workers = ALONE,
    states: dict[str, FitState] | None = None,
    checkpoint: Checkpoint | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> FittedVersion:
    """Fit version k of a step by a method of the table.

    Version 0 (`previous` is None) is the same for every method: a model, no map. `fitted` hands
    in a model that is finished already, so that only a post-hoc map remains to be fitted.
    `score` rates vectors (n_users + n_items, D_k); see `fit`, which gets the other options.
    `states` is what the last `checkpoint` was given, per phase, and continues from there.
    """
    method = plan.method
    if previous is not None and method.model == "frozen":
        eye = EntityMaps.linear(np.eye(previous.model.dim, dtype=np.float32))
        return FittedVersion(previous.model, eye, {}, 0.0)

    prepared = prepared or prepare(
        step, attributes, plan, previous=previous, fitted=fitted, device=device
    )
    known = prepared.before(previous) if previous else None
    begun = _begin(plan, prepared, previous=previous, fitted=fitted)
    model, config = begun.model.to(device), begun.config
    alignment = backward = extension = None
    if known and previous and method.aligns:
        alignment = Alignment(
            older_maps=[torch.tensor(matrix) for matrix in previous.matrices],
            loss=method.alignment,
        )
        backward = fresh_map(model.config.dim, known.dim, seed=config.seed)
        if begun.warm or method.map == "identity":
            keep_first(backward)
        backward = backward.requires_grad_(method.map == "linear").to(device)
    if known and method.model == "extended":
        extension = Extension(known.dim, model.config.dim).to(device)
    states = dict(states or {})

    def run(phase: str, config: FitConfig, *, align: bool, learn_model: bool) -> None:
        def save(state: FitState) -> None:
            states[phase] = state
            if checkpoint:
                checkpoint(states)

        states[phase] = fit(
            prepared.snapshot,
            model=model,
            alignment=alignment if align else None,
            backward=backward if align else None,
            extension=extension,
            known=known,
            config=config,
            score=score,
            learn_model=learn_model,
            device=device,
            workers=workers,
            state=states.get(phase),
            checkpoint=save,
            watch=(lambda progress: watch(phase, progress)) if watch else None,
            **options,
        )

    if not fitted:
        run("model", config, align=method.joint, learn_model=True)
    if alignment is not None and not method.joint:
        run("map", plan.fit.afterwards(plan.map_epochs), align=True, learn_model=False)
    finished = fitted or _finish(model, prepared, extension, previous)
    return FittedVersion(
        finished,
        _lead_back(
            plan,
            finished,
            prepared,
            backward,
            previous=previous,
            embed_older=lambda model: model.embed(step, attributes, device=device),
            leads=workers.leads,
        ),
        {phase: state.curve for phase, state in states.items()},
        sum(state.seconds for state in states.values()),
        {phase: state.phases for phase, state in states.items()},
    )


def _check_width(plan: VersionPlan, previous: Predecessor | None) -> None:
    if previous and plan.method.model == "extended" and plan.dim <= previous.model.dim:
        raise UsageError(
            f"{plan.method.name} adds dimensions to those of the version before: expected more "
            f"than {previous.model.dim}, found {plan.dim}. Ask for a wider version."
        )


class _Begun(NamedTuple):
    """The network to begin with."""

    model: EmbeddingModel
    config: FitConfig  # how it goes on
    warm: bool  # it does what its predecessor does, in its first dimensions


def _begin(
    plan: VersionPlan,
    prepared: Prepared,
    *,
    previous: Predecessor | None,
    fitted: TrainedModel | None,
) -> _Begun:
    method, fit = plan.method, plan.fit
    if fitted:
        return _Begun(fitted.load(), fit, warm=False)
    dim, layers = plan.dim, plan.layers
    if previous is not None and method.model == "continued":
        dim, layers = previous.model.config.dim, previous.model.config.layers
        fit = fit.lasting(plan.tuning_epochs)
    if previous is not None and method.model == "extended":
        dim -= previous.model.dim
        fit = fit.extending()
    config = ModelConfig(
        architecture=plan.architecture,
        dim=dim,
        layers=layers,
        values=tuple(len(values) for values in prepared.vocabulary.values()),
    )
    model = build_model(config, seed=fit.seed)
    goes_on = method.model == "continued" or (method.joint and fit.warm_start)
    if goes_on and previous is not None:
        older = previous.model
        warm = inherit(model, older.load(), vocabulary=prepared.vocabulary, known=older.vocabulary)
        if method.model == "continued":
            if not warm:
                raise UsageError(
                    f"{method.name} trains the version before on: expected a model of the "
                    f"architecture {older.config.architecture}, found {plan.architecture}."
                )
            return _Begun(model, fit, warm=True)
        if warm:
            return _Begun(model, fit.warm(), warm=True)
    model.rescale(table=fit.table_scale, output=fit.output_scale)
    return _Begun(model, fit, warm=False)


def _finish(
    model: EmbeddingModel,
    prepared: Prepared,
    extension: Extension | None,
    previous: Predecessor | None,
) -> TrainedModel:
    """What was learned, as arrays."""
    own = model.config, model_weights(model), prepared.vocabulary
    if extension is None or previous is None:
        return TrainedModel(*own)
    extension.settle()
    return TrainedModel(*own, previous.model, extension.basis.detach().cpu().numpy())


def _lead_back(
    plan: VersionPlan,
    model: TrainedModel,
    prepared: Prepared,
    backward: nn.Linear | None,
    *,
    previous: Predecessor | None,
    embed_older: Callable[[TrainedModel], npt.NDArray[np.float32]],
    leads: bool,
) -> EntityMaps | None:
    """The map of a finished model to the version before.

    Only the leading worker, for whose result the others wait, solves for it.
    """
    method = plan.method
    if previous is None or method.map == "none":
        return None
    solves = method.closed_form or (method.joint and plan.fit.solve_maps and "linear")
    if method.map == "linear" and solves and prepared.known is not None and leads:
        z = embed(model.load(), prepared.snapshot).numpy()
        fitted = partial(fit_maps, solves, z, n_users=prepared.snapshot.n_users)
        maps = fitted(prepared.known)
        if not plan.solves_for_all:
            return maps
        # Older models are run once, one after the other.
        others = (fitted(embed_older(model)).matrix for model in previous.older)
        directs = [maps.matrix, *islice(others, len(previous.matrices))]
        return EntityMaps.linear(agree(directs, previous.matrices[: len(directs) - 1]))
    if backward is not None:
        return EntityMaps.linear(backward.weight.detach().cpu().numpy())
    if model.basis is not None:
        return EntityMaps.linear(undo(model.basis, previous.model.dim))
    return EntityMaps.linear(np.eye(previous.model.dim, model.dim, dtype=np.float32))


def _tensor(array: npt.NDArray[np.float32]) -> torch.Tensor:
    """An array as a tensor on the same memory, which may be shared and read-only."""
    with warnings.catch_warnings():
        # torch warns of arrays that must not be written to; nothing writes to this one.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
