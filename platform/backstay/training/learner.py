"""Model, map, optimiser and averaged weights: the state that a training step changes."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NotRequired, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from backstay.models.inference import embed
from backstay.models.protocol import EmbeddingModel
from backstay.models.snapshot import Snapshot
from backstay.training.alignment import Alignment, alignment_residual
from backstay.training.batches import Batches, Part, SampledGroups, WholeGraph
from backstay.training.config import FitConfig
from backstay.training.extension import Extension
from backstay.training.phase_timer import PhaseTimer
from backstay.training.teacher import Teacher
from backstay.training.workers import Workers

Score = Callable[[Tensor], float]
"""Rates the vectors of all nodes (N, D_k); more is better."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks of a fit: those that are trained, and the teacher that they are trained with."""

    model: EmbeddingModel
    alignment: Alignment | None = None  # the loss of `backward`; None: the version is not aligned
    backward: nn.Linear | None = None  # B_k
    extension: Extension | None = None  # makes z_k of the teacher's vectors and the model's
    teacher: Teacher | None = None  # z_{k-1}, for an alignment or an extension
    train_model: bool = True  # False: the model is finished, and the map alone is fitted (post-hoc)

    @property
    def joint(self) -> bool:
        """Whether model and map are trained together."""
        return self.train_model and self.alignment is not None


class _Trained(nn.Module):
    """The networks that are trained: a model, a map, an extension, or several of them."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.model = networks.model if networks.train_model else None
        self.backward, self.extension = networks.backward, networks.extension


class LearnerState(TypedDict):
    """Everything that a later step depends on."""

    learned: dict[str, Tensor]
    optimiser: dict[str, Any]  # torch's own layout
    average: NotRequired[dict[str, Tensor]]


class Learner:
    """Trains networks step by step, and evaluates them.

    The evaluated state is the running mean of the weights where the configuration asks for one,
    else the weights themselves.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        networks: Networks,
        config: FitConfig,
        *,
        device: torch.device,
        timer: PhaseTimer,
    ) -> None:
        self._snapshot, self._networks, self._config = snapshot, networks, config
        self._device, self._timer = device, timer
        model, fixed = networks.model, not networks.train_model
        self._fixed = embed(model, snapshot, device=device).to(device) if fixed else None
        self._sampled = networks.train_model and config.samples(snapshot.n_nodes)
        source = SampledGroups if self._sampled else partial(WholeGraph, fixed=fixed)
        self._batches: Batches = source(
            snapshot, model, config, teacher=networks.teacher, device=device, timer=timer
        )
        self._trained = _Trained(networks)
        self._parameters = [part for part in self._trained.parameters() if part.requires_grad]
        self._optimiser = torch.optim.Adam(self._parameters, lr=config.learning_rate, fused=True)
        self._average = None
        if config.average and networks.train_model:
            decay = get_ema_multi_avg_fn(config.average)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(self._trained, multi_avg_fn=decay)
        self._trained.train()

    def step(
        self, number: int, workers: Workers, *, progress: float, flag: bool = False
    ) -> tuple[Tensor, bool]:
        """Optimiser step `number`; `progress` is the share of the fit that is done.

        Returns (loss, alignment) over the whole batch, and whether any worker set its flag.
        """
        self._optimiser.zero_grad()
        figures = torch.zeros(2, device=self._device)
        for part in self._batches.parts(number, workers):
            with self._timer("forward"):
                loss, alignment = self._losses(part)
            with self._timer("backward"):
                (part.share * loss).backward()  # type: ignore[no-untyped-call]
            figures += part.share * torch.stack([loss.detach(), alignment.detach()])
        with self._timer("exchange"):
            figures, flag = workers.add_gradients(self._parameters, figures, flag=flag)
        with self._timer("update"):
            for group in self._optimiser.param_groups:
                group["lr"] = self._config.rate(progress)
            self._optimiser.step()
            if self._average:
                self._average.update_parameters(self._trained)
        return figures, flag

    def evaluate(self, score: Score | None) -> float | None:
        """The score of the evaluated state; None without a score.

        A post-hoc map is scored by its own single-step residual, negated, instead.
        """
        found, teacher = self._evaluated, self._networks.teacher
        with self._timer("evaluation"):
            if self._fixed is not None and teacher and found.backward:
                return -alignment_residual(found.backward, self._fixed, teacher.table)
            if score is None or found.model is None:
                return None
            z = embed(found.model, self._snapshot, device=self._device)
            if found.extension is not None and teacher:
                z = found.extension.whole(teacher.table, z)
            return score(z)

    def refresh_batch_norm(self) -> None:
        """Recompute the batch-norm statistics of the evaluated state.

        Averaged weights have no statistics of their own. Where workers share out sampled graphs,
        each worker has gathered different ones.
        """
        model = self._evaluated.model
        if model is not None and (self._average or self._sampled):
            with self._timer("evaluation"):
                update_bn(self._batches.calibration(), model)

    def checkpoint(self) -> dict[str, Tensor]:
        """A copy of the evaluated state."""
        return copy.deepcopy(self._evaluated.state_dict())

    def finish(self, checkpoint: dict[str, Tensor]) -> None:
        """Load the selected checkpoint, and end training."""
        self._trained.load_state_dict(checkpoint)
        self._trained.eval()

    def dump(self) -> LearnerState:
        """A copy of everything that a later step depends on."""
        state: LearnerState = {
            "learned": self._trained.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        if self._average:
            state["average"] = self._average.state_dict()
        return copy.deepcopy(state)

    def restore(self, dumped: LearnerState) -> None:
        """Continue from the state that `dump` returned."""
        self._trained.load_state_dict(dumped["learned"])
        self._optimiser.load_state_dict(dumped["optimiser"])
        if self._average:
            self._average.load_state_dict(dumped["average"])

    @property
    def _evaluated(self) -> _Trained:
        return cast("_Trained", self._average.module) if self._average else self._trained

    def _losses(self, part: Part) -> tuple[Tensor, Tensor]:
        """The loss of a part, and the alignment loss in it: scalars."""
        networks = self._networks
        z = networks.model(part.graph) if self._fixed is None else self._fixed
        z = z.index_select(0, part.rows)
        if networks.extension is not None and part.teacher is not None:
            z = networks.extension(part.teacher, z)
        sizes = [len(column) for column in part.batch[:3]]
        alignment = z.new_zeros(())
        if networks.alignment and networks.backward is not None and part.teacher is not None:
            roles = zip(torch.split(z, sizes), torch.split(part.teacher, sizes), strict=True)
            for rows, teacher in roles:
                alignment = alignment + networks.alignment.loss(networks.backward, rows, teacher)
        if self._fixed is not None:
            return alignment, alignment
        counted = part.batch.counted
        ranking = ranking_loss(
            *torch.split(z, sizes),
            weight=self._config.regularisation,
            counted=None if counted is None else torch.from_numpy(counted).to(self._device),
        )
        return ranking + self._config.weight * alignment, alignment


def ranking_loss(
    users: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    weight: float,
    counted: Tensor | None = None,
) -> Tensor:
    """BPR (Rendle et al., UAI 2009) with its regularisation, over rows of shape (n, D): scalar.

    The mean of softplus(⟨u, n⟩ − ⟨u, p⟩), and `weight` times half the mean squared norms.

    With `counted`, (n, m) bool, the loss of a pair is the mean over those of the m negatives for
    which it is true. In expectation this is the same loss, with less noise: n·m terms instead of n.
    """
    norms = sum(0.5 * rows.square().sum(1).mean() for rows in (users, positives, negatives))
    scores = (users * positives).sum(1)
    if counted is None:
        contrast = functional.softplus((users * negatives).sum(1) - scores).mean()
    else:
        margins = functional.softplus(users @ negatives.T - scores[:, None])
        # A mean per pair, so that the loss of a batch is the mean over its shards.
        contrast = ((margins * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()
    return contrast + weight * norms
