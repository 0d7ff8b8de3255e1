"""Model, map, optimiser and averaged weights: what a step of the loop changes."""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from backstay.models.inference import embed
from backstay.models.protocol import EmbeddingModel
from backstay.models.snapshot import Snapshot
from backstay.training.alignment import Alignment, alignment_error
from backstay.training.batches import Batches, Part, SampledGroups, WholeGraph
from backstay.training.clock import Clock
from backstay.training.config import FitConfig
from backstay.training.extension import Extension
from backstay.training.known import Known
from backstay.training.workers import Workers

Score = Callable[[Tensor], float]


class _Learned(nn.Module):
    """What is learned: a model, a map, what extends the version before, or several of them."""

    def __init__(
        self,
        model: EmbeddingModel | None,
        backward: nn.Linear | None,
        extension: Extension | None,
    ) -> None:
        super().__init__()
        self.model, self.backward, self.extension = model, backward, extension


class Learner:
    """Takes steps, and shows the state that a fit would keep."""

    def __init__(
        self,
        snapshot: Snapshot,
        model: EmbeddingModel,
        alignment: Alignment | None,
        backward: nn.Linear | None,
        config: FitConfig,
        *,
        extension: Extension | None = None,
        known: Known | None = None,
        learn_model: bool,
        device: torch.device,
        clock: Clock,
    ) -> None:
        self._snapshot, self._model, self._backward = snapshot, model, backward
        self._alignment, self._config, self._known = alignment, config, known
        self._device, self._clock = device, clock
        self._fixed = None if learn_model else embed(model, snapshot, device=device).to(device)
        on: dict[str, Any] = {"known": known, "device": device, "clock": clock}
        self._batches: Batches
        self._sampled = learn_model and config.samples(snapshot.n_nodes)
        if self._sampled:
            self._batches = SampledGroups(snapshot, model, config, **on)
        else:
            self._batches = WholeGraph(snapshot, model, config, fixed=not learn_model, **on)
        self._learned = _Learned(model if learn_model else None, backward, extension)
        self._moving = [part for part in self._learned.parameters() if part.requires_grad]
        self._optimiser = torch.optim.Adam(self._moving, lr=config.learning_rate, fused=True)
        self._average = None
        if config.average and learn_model:
            decay = get_ema_multi_avg_fn(config.average)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(self._learned, multi_avg_fn=decay)
        self._learned.train()

    def step(
        self, number: int, workers: Workers, *, progress: float, wish: bool = False
    ) -> tuple[Tensor, bool]:
        """Optimiser step `number`; `progress` is the share of the fit that is done.

        Returns (loss, alignment) over the whole batch, and whether a worker expressed a wish.
        """
        self._optimiser.zero_grad()
        figures = torch.zeros(2, device=self._device)
        for part in self._batches.parts(number, workers):
            with self._clock("forward"):
                loss, alignment = self._losses(part)
            with self._clock("backward"):
                (part.share * loss).backward()  # type: ignore[no-untyped-call]
            figures += part.share * torch.stack([loss.detach(), alignment.detach()])
        with self._clock("exchange"):
            figures, wish = workers.add_gradients(self._moving, figures, wish=wish)
        with self._clock("update"):
            for group in self._optimiser.param_groups:
                group["lr"] = self._config.rate(progress)
            self._optimiser.step()
            if self._average:
                self._average.update_parameters(self._learned)
        return figures, wish

    def judge(self, score: Score | None) -> float | None:
        """Rate the state that would be kept; None where nothing rates it."""
        judged = self._judged
        with self._clock("evaluation"):
            if self._fixed is not None and self._known and judged.backward:
                return -alignment_error(judged.backward, self._fixed, self._known.table)
            if score is None or judged.model is None:
                return None
            z = embed(judged.model, self._snapshot, device=self._device)
            if judged.extension is not None and self._known:
                z = judged.extension.whole(self._known.table, z)
            return score(z)

    def settle(self) -> None:
        """Give batch norms the statistics that the judged weights have.

        Averaged weights have none of their own; and where workers share out sampled graphs, each
        has gathered other ones.
        """
        judged = self._judged.model
        if judged is not None and (self._average or self._sampled):
            with self._clock("evaluation"):
                update_bn(self._batches.calibration(), judged)

    def kept(self) -> dict[str, Tensor]:
        """A copy of the state that would be kept."""
        return copy.deepcopy(self._judged.state_dict())

    def keep(self, state: dict[str, Tensor]) -> None:
        """End in a state that `kept` gave."""
        self._learned.load_state_dict(state)
        self._learned.eval()

    def dump(self) -> dict[str, Any]:
        """A copy of everything a later step depends on."""
        parts: dict[str, Any] = {"learned": self._learned, "optimiser": self._optimiser}
        if self._average:
            parts["average"] = self._average
        return {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}

    def restore(self, dumped: dict[str, Any]) -> None:
        """Go on from a state that `dump` gave."""
        self._learned.load_state_dict(dumped["learned"])
        self._optimiser.load_state_dict(dumped["optimiser"])
        if self._average:
            self._average.load_state_dict(dumped["average"])

    @property
    def _judged(self) -> _Learned:
        return cast("_Learned", self._average.module) if self._average else self._learned

    def _losses(self, part: Part) -> tuple[Tensor, Tensor]:
        """The loss of a part and, of it, the alignment: scalars."""
        z = self._model(part.graph) if self._fixed is None else self._fixed
        z = z.index_select(0, part.rows)
        if self._learned.extension is not None and part.known is not None:
            z = self._learned.extension(part.known, z)
        sizes = [len(column) for column in part.batch[:3]]
        alignment = z.new_zeros(())
        if self._alignment and self._backward is not None and part.known is not None:
            roles = zip(torch.split(z, sizes), torch.split(part.known, sizes), strict=True)
            for rows, known in roles:
                alignment = alignment + self._alignment.loss(self._backward, rows, known)
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
    """BPR with its regularisation, over rows of shape (n, D): scalar (design, section 3).

    With `counted`, (n, m) bool, each pair is contrasted with the mean over those of the m negatives
    for which it is true. In expectation that is the same loss with less noise: n·m contrasts
    instead of n.
    """
    norms = sum(0.5 * rows.square().sum(1).mean() for rows in (users, positives, negatives))
    scores = (users * positives).sum(1)
    if counted is None:
        contrast = functional.softplus((users * negatives).sum(1) - scores).mean()
    else:
        margins = functional.softplus(users @ negatives.T - scores[:, None])
        # Per pair, so that the loss of a batch is the mean over its shards, however they are cut.
        contrast = ((margins * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()
    return contrast + weight * norms
