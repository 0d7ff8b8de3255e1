"""Consumer models: trained once on version 0's vectors, then frozen.

A consumer is the published MLP: two hidden layers of equal width, batch norm and dropout after
both, ReLU after the first only.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import nn

from backstay.errors import InputError, UsageError
from backstay.evaluation.consumers.inputs import Inputs, StepVectors
from backstay.evaluation.consumers.labels import Examples, TaskName
from backstay.evaluation.metrics.roc_auc import roc_auc
from backstay.models.tensors import as_tensor
from backstay.storage.atomic import write_file

_SCORING_ROWS = 1 << 15  # rows scored at once
_FORMAT = "backstay-consumer-1"


def consumer_network(dim: int, width: int, dropout: float) -> nn.Sequential:
    """An untrained consumer: (n, dim) input rows to (n, 1) logits."""
    return nn.Sequential(
        nn.Linear(dim, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.Dropout(dropout),
        nn.Linear(width, 1),
    )


@dataclass(frozen=True, kw_only=True)
class Consumer:
    """A trained consumer model with frozen weights."""

    task: TaskName
    dim: int  # width of the input rows it was trained on
    width: int
    dropout: float
    seed: int
    epoch: int  # the selected epoch, from 1 on
    validation_auc: float  # ROC-AUC on the early-stopping examples at that epoch
    network: nn.Sequential

    def scores(self, inputs: torch.Tensor | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (n,) of input rows (n, dim): z_user, z_item, or z_user ‖ z_item by task."""
        x = as_tensor(inputs)
        if x.ndim != 2 or x.shape[1] != self.dim:  # noqa: PLR2004
            raise UsageError(
                f"the {self.task} consumer takes rows of {self.dim} dimensions, found shape "
                f"{tuple(x.shape)}; convert the vectors to version 0 first."
            )
        device = next(self.network.parameters()).device
        return score(self.network, x.to(device, torch.float32))

    def logits(self, examples: Examples, vectors: StepVectors) -> npt.NDArray[np.float32]:
        """Logits (n,) of `examples`, whose step `vectors` cover."""
        inputs = Inputs(vectors, examples)
        if inputs.dim != self.dim:
            raise UsageError(
                f"the {self.task} consumer takes {self.dim} dimensions, found {inputs.dim}; "
                "convert the vectors to version 0 first."
            )
        return score(self.network, inputs)

    def save(self, path: Path) -> None:
        """Write the consumer to a safetensors file, atomically."""
        about = {
            field.name: json.dumps(getattr(self, field.name))
            for field in fields(self)
            if field.name != "network"
        }
        weights = {name: value.cpu() for name, value in self.network.state_dict().items()}
        write_file(path, to_safetensors(weights, {"format": _FORMAT, **about}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a consumer that `save` wrote, without unpickling; InputError if that fails."""
        try:
            with safe_open(path, framework="pt") as file:
                about = dict(file.metadata() or {})
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about.pop("format", None) != _FORMAT:
                raise InputError(f"{path} holds no consumer: expected format {_FORMAT}.")
            values = {name: json.loads(text) for name, text in about.items()}
            network = consumer_network(values["dim"], values["width"], values["dropout"])
            network.load_state_dict(weights)
            network.eval().requires_grad_(requires_grad=False)
            return cls(network=network, **values)
        except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} can't be read as a consumer ({error}); restore the file or train it again."
            ) from error


def score(network: nn.Sequential, inputs: Inputs | torch.Tensor) -> npt.NDArray[np.float32]:
    """Logits (n,) of a network in evaluation mode, computed in blocks of input rows."""
    logits = np.empty(len(inputs), np.float32)
    with torch.inference_mode():
        for start in range(0, len(inputs), _SCORING_ROWS):
            block = slice(start, start + _SCORING_ROWS)
            logits[block] = network(inputs[block]).squeeze(1).cpu().numpy()
    return logits


def judge(consumer: Consumer, examples: Examples, vectors: StepVectors) -> float:
    """The consumer's ROC-AUC on `examples`, given version-0-compatible vectors of their step."""
    return roc_auc(consumer.logits(examples, vectors), examples.labels)
