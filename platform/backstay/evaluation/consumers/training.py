"""Training of consumer models, once, on version 0."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from backstay.checks import AtLeastOne, check_fields
from backstay.errors import TrainingError, UsageError
from backstay.evaluation.consumers.inputs import Inputs, StepVectors
from backstay.evaluation.consumers.labels import ConsumerTask
from backstay.evaluation.consumers.model import Consumer, consumer_network, score
from backstay.evaluation.metrics.roc_auc import roc_auc
from backstay.models.tensors import as_tensor

log = logging.getLogger("backstay.evaluation")


@dataclass(frozen=True, kw_only=True)
class ConsumerConfig:
    """How consumers are trained: a preset, or `replace(FAST, seeds=5)`."""

    widths: Annotated[tuple[AtLeastOne, ...], Field(min_length=1)]
    """Candidate widths of the hidden layers; the best on validation AUC is chosen."""
    dropouts: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(min_length=1)]
    """Candidate dropout probabilities, chosen together with the width."""
    seeds: AtLeastOne  # consumers trained with the chosen width and dropout: seeds 0 … seeds - 1
    epochs: AtLeastOne
    """Most passes over the training examples; the best on validation AUC is selected."""
    patience: AtLeastOne | None = None
    """Training ends after this many epochs without a better validation AUC; None: never early."""
    epoch_examples: int | None = None
    """Most training examples per epoch, drawn again for each; None: all of them."""
    batch: Annotated[int, Field(ge=2)] = 2048  # examples per step; batch norm needs two rows
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3  # Adam's step size

    def __post_init__(self) -> None:
        check_fields(self)
        if self.epoch_examples is not None and self.epoch_examples < self.batch:
            raise UsageError(
                f"epoch_examples must be at least one batch ({self.batch}), found "
                f"{self.epoch_examples}."
            )


PAPER = ConsumerConfig(
    widths=(128, 256, 512, 1024), dropouts=(0.0, 0.25, 0.5), seeds=10, epochs=300
)
"""The published protocol."""

FAST = ConsumerConfig(
    widths=(128,),
    dropouts=(0.0, 0.25),
    seeds=3,
    epochs=50,
    patience=10,
    epoch_examples=1 << 18,
)
"""Takes minutes instead of hours on two cores."""


def train_consumers(
    task: ConsumerTask,
    train: StepVectors,
    early_stop: StepVectors,
    *,
    config: ConsumerConfig = FAST,
) -> list[Consumer]:
    """Choose width and dropout on seed 0, then train one consumer per seed with them.

    `train` are M_0's vectors of step 0, `early_stop` those of step `task.early_stop_step`. The
    consumers are on the vectors' device.
    """
    fit = partial(train_consumer, task, train, early_stop, config=config)
    candidates = [
        fit(width=width, dropout=dropout, seed=0)
        for dropout, width in product(config.dropouts, config.widths)
    ]
    best = max(candidates, key=lambda consumer: consumer.validation_auc)  # the first on a tie
    chosen = f"width {best.width}, dropout {best.dropout:g}"
    found = f"validation AUC {best.validation_auc:.4f}, best epoch {best.epoch}"
    log.info("%s: %s (%s)", task.name, chosen, found)
    further = range(1, config.seeds)
    return [best, *(fit(width=best.width, dropout=best.dropout, seed=seed) for seed in further)]


def train_consumer(
    task: ConsumerTask,
    train: StepVectors,
    early_stop: StepVectors,
    *,
    width: int,
    dropout: float,
    seed: int,
    config: ConsumerConfig = FAST,
) -> Consumer:
    """Train one consumer and select its best epoch on the early-stopping examples.

    Only the seed decides initial weights, batches and dropout. The process's random state is
    neither read nor changed. On a CPU it uses one thread: the matrices are too small for more, and
    sums do not depend on the number of cores then. To use more cores, train several consumers at
    once.
    """
    inputs, validation = Inputs(train, task.train), Inputs(early_stop, task.early_stop)
    if inputs.dim != validation.dim:
        raise UsageError(
            f"expected one dimension for training and early stopping, found {inputs.dim} and "
            f"{validation.dim}; pass M_0's own vectors for both."
        )
    device = inputs.device
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), _one_thread():
        torch.default_generator.manual_seed(seed)
        for _ in cuda:
            torch.cuda.manual_seed(seed)
        network = consumer_network(inputs.dim, width, dropout).to(device)
        epoch, auc = _fit(network, task, inputs, validation, config=config)
    return Consumer(
        task=task.name,
        dim=inputs.dim,
        width=width,
        dropout=dropout,
        seed=seed,
        epoch=epoch,
        validation_auc=auc,
        network=network,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(
    network: nn.Sequential,
    task: ConsumerTask,
    inputs: Inputs,
    validation: Inputs,
    *,
    config: ConsumerConfig,
) -> tuple[int, float]:
    """Train `network` in place and restore its best epoch, frozen: (epoch, validation AUC)."""
    labels = as_tensor(task.train.labels).to(inputs.device, torch.float32)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    best_epoch, best_auc, best_state = 0, -1.0, network.state_dict()
    for epoch in range(1, config.epochs + 1):
        network.train()
        order = torch.randperm(len(inputs))[: config.epoch_examples].to(inputs.device)
        for rows in torch.split(order, config.batch):
            if len(rows) == 1:
                continue  # a batch of one row has no batch statistics
            optimizer.zero_grad()
            logits = network(inputs[rows]).squeeze(1)
            torch.autograd.backward(binary_cross_entropy_with_logits(logits, labels[rows]))
            optimizer.step()
        network.eval()
        scores = score(network, validation)
        if not np.isfinite(scores).all():
            raise TrainingError(
                f"the {task.name} consumer diverged in epoch {epoch}: its scores are not finite; "
                "check that its input vectors are."
            )
        auc = roc_auc(scores, task.early_stop.labels)
        if auc > best_auc:
            best_epoch, best_auc, best_state = epoch, auc, deepcopy(network.state_dict())
        elif config.patience is not None and epoch - best_epoch >= config.patience:
            break
    network.load_state_dict(best_state)
    network.eval().requires_grad_(requires_grad=False)
    return best_epoch, best_auc
