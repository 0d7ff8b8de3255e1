"""One version from arrays to arrays: the model and the backward map of an update method."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backstay.compat.methods import Method
from backstay.datasets.dataset import Attributes, Vocabulary
from backstay.datasets.timeline import Step
from backstay.models.architectures import ARCHITECTURES, build_model, load_model, model_weights
from backstay.models.inference import embed
from backstay.models.protocol import EmbeddingModel, ModelConfig
from backstay.models.snapshot import Snapshot
from backstay.training.alignment import Alignment
from backstay.training.config import FitConfig
from backstay.training.fit import FitState, fit
from backstay.training.learner import Score
from backstay.training.progress import Watch
from backstay.training.warm_start import inherit, lead_back
from backstay.training.workers import ALONE, Workers

Checkpoint = Callable[[dict[str, FitState]], None]


@dataclass(frozen=True)
class TrainedModel:
    """A finished model as plain arrays: it can be stored, sent to a worker, and run anywhere."""

    config: ModelConfig
    weights: Mapping[str, npt.NDArray[Any]]
    vocabulary: Vocabulary

    def load(self) -> EmbeddingModel:
        """The model, in evaluation mode."""
        return load_model(self.config.to_dict(), self.weights)

    def embed(
        self, step: Step, attributes: Attributes, *, device: str = "cpu"
    ) -> npt.NDArray[np.float32]:
        """The vectors of a step's users, then items: (n_users + n_items, dim) float32."""
        snapshot = Snapshot.of(step, attributes.reindexed(self.vocabulary))
        z: npt.NDArray[np.float32] = (
            embed(self.load().to(device), snapshot, device=device).cpu().numpy()
        )
        return z


@dataclass(frozen=True)
class Predecessor:
    """Version k - 1, as version k needs it."""

    model: TrainedModel
    matrices: tuple[npt.NDArray[np.float32], ...]  # B_{k-1}, …, B_1: newest first


@dataclass(frozen=True)
class VersionPlan:
    """How a version is fitted."""

    method: Method
    dim: int  # D_k
    layers: int
    fit: FitConfig = field(default_factory=FitConfig)
    map_epochs: int | None = None  # of a post-hoc map; None: as many as the model's
    architecture: str = "pinsage"


@dataclass(frozen=True)
class Prepared:
    """The constant inputs of a fit, made once; plain arrays that workers can share."""

    snapshot: Snapshot
    vocabulary: Vocabulary
    target: npt.NDArray[np.float32] | None  # z_{k-1} (N, D_{k-1}), where the method aligns to it


@dataclass(frozen=True)
class FittedVersion:
    """What fitting a version gives."""

    model: TrainedModel
    matrix: npt.NDArray[np.float32] | None  # B_k (D_{k-1}, D_k); None for version 0 and no-bc
    curves: dict[str, list[dict[str, float]]]  # per phase: one entry per evaluation
    seconds: float
    seconds_by: dict[str, dict[str, float]] = field(default_factory=dict)  # per phase: what for
    peak_rss_mb: float = 0.0  # of the process that led the fit, MB of 10⁶ bytes; 0: not measured

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
    """Build the graph of a step, and embed it with the version before where that is a target."""
    known = attributes.with_ids() if ARCHITECTURES[plan.architecture].knows_items else attributes
    vocabulary = fitted.vocabulary if fitted else known.vocabulary(items=step.n_known_items)
    target = None
    if previous is not None and plan.method.map == "linear":
        target = previous.model.embed(step, attributes, device=device)
    return Prepared(Snapshot.of(step, attributes.reindexed(vocabulary)), vocabulary, target)


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
        eye = np.eye(previous.model.config.dim, dtype=np.float32)
        return FittedVersion(previous.model, eye, {}, 0.0)

    prepared = prepared or prepare(
        step, attributes, plan, previous=previous, fitted=fitted, device=device
    )
    model, config, warm = _start(plan, prepared, previous=previous, fitted=fitted)
    alignment = backward = None
    if prepared.target is not None and previous is not None:
        alignment = Alignment(
            _tensor(prepared.target),
            older_maps=[torch.tensor(matrix) for matrix in previous.matrices],
            loss=method.alignment,
        )
        backward = alignment.fresh_map(model.config.dim, seed=config.seed)
        if warm:
            lead_back(backward)
        backward = backward.to(device)
    model = model.to(device)
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
    if alignment is not None and method.posthoc:
        run("map", plan.fit.afterwards(plan.map_epochs), align=True, learn_model=False)
    return FittedVersion(
        fitted or TrainedModel(model.config, model_weights(model), prepared.vocabulary),
        None if backward is None else backward.weight.detach().cpu().numpy(),
        {phase: state.curve for phase, state in states.items()},
        sum(state.seconds for state in states.values()),
        {phase: state.phases for phase, state in states.items()},
    )


def _start(
    plan: VersionPlan,
    prepared: Prepared,
    *,
    previous: Predecessor | None,
    fitted: TrainedModel | None,
) -> tuple[EmbeddingModel, FitConfig, bool]:
    """The model to begin with, how it goes on, and whether it knows what its predecessor does."""
    if fitted:
        return fitted.load(), plan.fit, False
    config = ModelConfig(
        architecture=plan.architecture,
        dim=plan.dim,
        layers=plan.layers,
        values=tuple(len(values) for values in prepared.vocabulary.values()),
    )
    model = build_model(config, seed=plan.fit.seed)
    if plan.fit.warm_start and plan.method.joint and previous is not None:
        known = previous.model
        if inherit(model, known.load(), vocabulary=prepared.vocabulary, known=known.vocabulary):
            return model, plan.fit.warm(), True
    model.rescale(table=plan.fit.table_scale, output=plan.fit.output_scale)
    return model, plan.fit, False


def _tensor(array: npt.NDArray[np.float32]) -> torch.Tensor:
    """An array as a tensor on the same memory, which may be shared and read-only."""
    with warnings.catch_warnings():
        # torch warns of arrays that must not be written to; nothing writes to this one.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
