"""One version from arrays to arrays: the model and the backward map of an update method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from backstay.compat.methods import Method
from backstay.datasets.dataset import Attributes, Vocabulary
from backstay.datasets.timeline import Step
from backstay.models.architectures import build_model, load_model, model_weights
from backstay.models.graph import Graph
from backstay.models.protocol import ModelConfig
from backstay.training.fit import Aligner, FitConfig, FitState, embed, fit
from backstay.training.workers import ALONE, Workers

Checkpoint = Callable[[dict[str, FitState]], None]
Score = Callable[[Tensor], float]


@dataclass(frozen=True)
class TrainedModel:
    """A finished model as plain arrays: it can be stored, sent to a worker, and run anywhere."""

    config: ModelConfig
    weights: Mapping[str, npt.NDArray[Any]]
    vocabulary: Vocabulary

    def embed(
        self, step: Step, attributes: Attributes, *, device: str = "cpu"
    ) -> npt.NDArray[np.float32]:
        """The vectors of a step's users, then items: (n_users + n_items, dim) float32."""
        model = load_model(self.config.to_dict(), self.weights).to(device)
        graph = Graph.of(step, attributes.reindexed(self.vocabulary)).to(torch.device(device))
        z: npt.NDArray[np.float32] = embed(model, graph).cpu().numpy()
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
class FittedVersion:
    """What fitting a version gives."""

    model: TrainedModel
    matrix: npt.NDArray[np.float32] | None  # B_k (D_{k-1}, D_k); None for version 0 and no-bc
    curves: dict[str, list[dict[str, float]]]  # per phase: one entry per evaluation
    seconds: float


def fit_version(
    step: Step,
    attributes: Attributes,
    plan: VersionPlan,
    *,
    previous: Predecessor | None,
    score: Score | None,
    fitted: TrainedModel | None = None,
    device: str = "cpu",
    workers: Workers = ALONE,
    states: dict[str, FitState] | None = None,
    checkpoint: Checkpoint | None = None,
) -> FittedVersion:
    """Fit version k of a step by a method of the table.

    Version 0 (`previous` is None) is the same for every method: a model, no map. `fitted` hands
    in a model that is finished already, so that only a post-hoc map remains to be fitted.
    `score` rates vectors (n_users + n_items, D_k); see `fit`. `states` is what the last
    `checkpoint` was given, per phase, and continues from there.
    """
    method, config = plan.method, plan.fit
    if previous is not None and method.model == "frozen":
        eye = np.eye(previous.model.config.dim, dtype=np.float32)
        return FittedVersion(previous.model, eye, {}, 0.0)

    model, model_config, vocabulary = _model(step, attributes, plan, fitted)
    model = model.to(device)
    graph = Graph.of(step, attributes.reindexed(vocabulary)).to(torch.device(device))
    aligner = None
    if previous is not None and method.map == "linear":
        aligner = Aligner(
            model_config.dim,
            target=torch.from_numpy(previous.model.embed(step, attributes, device=device)),
            older_maps=[torch.tensor(matrix) for matrix in previous.matrices],
            loss=method.alignment,
            seed=config.seed,
        ).to(device)

    states = dict(states or {})

    def run(phase: str, config: FitConfig, aligner: Aligner | None, *, learn_model: bool) -> None:
        def save(state: FitState) -> None:
            states[phase] = state
            if checkpoint:
                checkpoint(states)

        states[phase] = fit(
            step,
            graph,
            model=model,
            aligner=aligner,
            config=config,
            score=score,
            learn_model=learn_model,
            workers=workers,
            state=states.get(phase),
            checkpoint=save,
        )

    if not fitted:
        run("model", config, aligner if method.joint else None, learn_model=True)
    if aligner is not None and method.posthoc:
        epochs = plan.map_epochs or config.epochs
        run("map", replace(config, epochs=epochs), aligner, learn_model=False)
    return FittedVersion(
        fitted or TrainedModel(model_config, model_weights(model), vocabulary),
        None if aligner is None else aligner.matrix.detach().cpu().numpy(),
        {phase: state.curve for phase, state in states.items()},
        sum(state.seconds for state in states.values()),
    )


def _model(
    step: Step, attributes: Attributes, plan: VersionPlan, fitted: TrainedModel | None
) -> tuple[nn.Module, ModelConfig, Vocabulary]:
    """A fresh model that knows the attribute values of the step's known items, or `fitted`."""
    if fitted:
        model = load_model(fitted.config.to_dict(), fitted.weights)
        return model, fitted.config, fitted.vocabulary
    vocabulary = attributes.vocabulary(items=step.n_known_items)
    config = ModelConfig(
        architecture=plan.architecture,
        dim=plan.dim,
        layers=plan.layers,
        values=tuple(len(values) for values in vocabulary.values()),
    )
    return build_model(config, seed=plan.fit.seed), config, vocabulary
