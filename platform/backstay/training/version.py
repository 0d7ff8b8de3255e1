"""Fitting one version: the model and the backward map of an update method."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from backstay.compat.maps import EntityMaps
from backstay.models.architectures import model_weights
from backstay.models.trained import TrainedModel
from backstay.training.alignment import Alignment, fresh_map
from backstay.training.backward import final_map
from backstay.training.extension import Extension
from backstay.training.fit import FitCallbacks, FitState, fit
from backstay.training.learner import Networks, Score
from backstay.training.memory import peak_memory
from backstay.training.prepared import Prepared, prepare
from backstay.training.progress import Progress, Watch
from backstay.training.request import FitRequest
from backstay.training.warm_start import Start, keep_first, start_model
from backstay.training.workers import ALONE, Workers

Checkpoint = Callable[[dict[str, FitState]], None]
"""Called with the state of every phase so far, "model" before "map"."""


@dataclass(frozen=True, kw_only=True)
class VersionCallbacks:
    """Callbacks of all phases of a version; see `FitCallbacks`."""

    checkpoint: Checkpoint | None = None
    checkpoint_seconds: float = math.inf
    watch: Watch | None = None

    def of_phase(self, phase: str, states: dict[str, FitState]) -> FitCallbacks:
        """The callbacks of one phase; its state goes into `states` at every checkpoint."""

        def checkpoint(state: FitState) -> None:
            states[phase] = state
            if self.checkpoint:
                self.checkpoint(states)

        def watch(progress: Progress) -> None:
            if self.watch:
                self.watch(phase, progress)

        return FitCallbacks(
            checkpoint=checkpoint,
            checkpoint_seconds=self.checkpoint_seconds,
            watch=watch if self.watch else None,
        )


@dataclass(frozen=True)
class FittedVersion:
    """The result of fitting a version."""

    model: TrainedModel
    backward: EntityMaps | None  # from z_k to z_{k-1}; None for version 0 and no-bc
    curves: dict[str, list[dict[str, float]]]  # per phase: one entry per evaluation
    seconds: float
    seconds_by: dict[str, dict[str, float]] = field(default_factory=dict)  # the same by activity
    peak_rss_mb: float = 0.0  # of the process that led the fit, MB of 10⁶ bytes; 0: not measured

    @property
    def matrix(self) -> npt.NDArray[np.float32] | None:
        """B_k (D_{k-1}, D_k), where one linear map serves all entities; None without a map.

        Raises MapMismatchError for any other map.
        """
        return None if self.backward is None else self.backward.matrix

    @property
    def report(self) -> dict[str, object]:
        """The content of `fit_report.json`."""
        return {
            "seconds": self.seconds,
            "peak_rss_mb": self.peak_rss_mb,
            "phases": {
                name: {"curve": curve, "seconds_by": self.seconds_by.get(name, {})}
                for name, curve in self.curves.items()
            },
        }


def fit_version(
    request: FitRequest,
    *,
    score: Score | None,
    prepared: Prepared | None = None,
    device: str = "cpu",
    workers: Workers = ALONE,
    states: dict[str, FitState] | None = None,
    callbacks: VersionCallbacks | None = None,
) -> FittedVersion:
    """Fit a version, and measure the seconds and the peak memory that it takes.

    `score` rates vectors (n_users + n_items, D_k). `states` are those of the last checkpoint, from
    which the fit continues.

    Raises UsageError where the plan does not fit the version before.
    """
    with peak_memory() as peak:
        fitted = _frozen(request)
        if fitted is None:
            prepared = prepared or prepare(request, device=device)
            run = _Run(request, prepared, device=device, workers=workers)
            states = run.fit(dict(states or {}), score, callbacks or VersionCallbacks())
            fitted = run.result(states)
    return replace(fitted, peak_rss_mb=peak.rss_mb)


def untrained(request: FitRequest) -> TrainedModel:
    """A model of the shape that a fit from scratch gives, with its starting weights."""
    first = replace(request, previous=None)
    prepared = prepare(first)
    model = start_model(first, prepared).model
    return TrainedModel(model.config, model_weights(model), prepared.vocabulary)


def _frozen(request: FitRequest) -> FittedVersion | None:
    """The previous version with the identity as its map, for the method that changes nothing."""
    if request.previous is None or request.plan.method.model != "frozen":
        return None
    model = request.previous.model
    return FittedVersion(model, EntityMaps.linear(np.eye(model.dim, dtype=np.float32)), {}, 0.0)


class _Run:
    """The fit of one version: its networks, and the phases that train them."""

    def __init__(
        self, request: FitRequest, prepared: Prepared, *, device: str, workers: Workers
    ) -> None:
        self._request, self._prepared = request, prepared
        self._device, self._workers = device, workers
        self._start = start_model(request, prepared)
        self._networks = _networks(request, prepared, self._start, device=device)

    def fit(
        self, states: dict[str, FitState], score: Score | None, callbacks: VersionCallbacks
    ) -> dict[str, FitState]:
        """Train the model, then the map where it is fitted afterwards; returns final states."""
        plan, networks = self._request.plan, self._networks
        phases = {}
        if not self._request.fitted:
            unaligned = replace(networks, alignment=None, backward=None)
            trained = networks if plan.method.joint else unaligned
            phases["model"] = trained, self._start.config
        if networks.alignment is not None and not plan.method.joint:
            afterwards = replace(networks, train_model=False)
            phases["map"] = afterwards, plan.fit.afterwards(plan.map_epochs)
        for phase, (trained, config) in phases.items():
            states[phase] = fit(
                self._prepared.snapshot,
                trained,
                config,
                score=score,
                device=self._device,
                workers=self._workers,
                state=states.get(phase),
                callbacks=callbacks.of_phase(phase, states),
            )
        return states

    def result(self, states: dict[str, FitState]) -> FittedVersion:
        """The fitted version as arrays."""
        request, networks = self._request, self._networks
        model = request.fitted or _trained(request, self._prepared, networks)
        backward = final_map(
            request,
            model,
            self._prepared,
            networks.backward,
            leads=self._workers.leads,
            device=self._device,
        )
        return FittedVersion(
            model,
            backward,
            {phase: state.curve for phase, state in states.items()},
            sum(state.seconds for state in states.values()),
            {phase: state.phases for phase, state in states.items()},
        )


def _networks(request: FitRequest, prepared: Prepared, start: Start, *, device: str) -> Networks:
    """The networks that the method trains, on `device`."""
    method, previous = request.plan.method, request.previous
    teacher = prepared.teacher(previous) if previous else None
    networks = Networks(model=start.model.to(device), teacher=teacher)
    if previous and teacher and method.aligns:
        older_maps = [torch.tensor(matrix) for matrix in previous.matrices]
        networks = replace(
            networks,
            alignment=Alignment(older_maps=older_maps, loss=method.alignment),
            backward=_fresh_backward(request, start, teacher.dim).to(device),
        )
    if teacher and method.model == "extended":
        extension = Extension(teacher.dim, start.model.config.dim).to(device)
        networks = replace(networks, extension=extension)
    return networks


def _fresh_backward(request: FitRequest, start: Start, older_dim: int) -> nn.Linear:
    """B_k before training; fixed where the method's map is the identity."""
    method = request.plan.method
    backward = fresh_map(start.model.config.dim, older_dim, seed=start.config.seed)
    if start.warm or method.map == "identity":
        keep_first(backward)
    return backward.requires_grad_(method.map == "linear")


def _trained(request: FitRequest, prepared: Prepared, networks: Networks) -> TrainedModel:
    """The trained model as arrays."""
    model, extension = networks.model, networks.extension
    parts = model.config, model_weights(model), prepared.vocabulary
    if extension is None or request.previous is None:
        return TrainedModel(*parts)
    extension.limit_stretch()
    basis = extension.basis.detach().cpu().numpy()
    return TrainedModel(*parts, request.previous.model, basis)
