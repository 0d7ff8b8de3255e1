"""Every embedding model by name: made, taken apart into arrays, and put together again."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backstay.errors import CorruptError, UsageError
from backstay.models.factorisation import Factorisation
from backstay.models.lightgcn import LightGCN
from backstay.models.pinsage import PinSAGE
from backstay.models.protocol import EmbeddingModel, ModelConfig

ARCHITECTURES: dict[str, type[EmbeddingModel]] = {
    "factorisation": Factorisation,
    "lightgcn": LightGCN,
    "pinsage": PinSAGE,
}


def build_model(config: ModelConfig, *, seed: int) -> EmbeddingModel:
    """A freshly initialised model; the same seed gives the same weights."""
    if config.architecture not in ARCHITECTURES:
        raise UsageError(
            f"unknown architecture {config.architecture!r}; "
            f"expected one of {', '.join(sorted(ARCHITECTURES))}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[config.architecture](config)


def model_weights(model: EmbeddingModel) -> dict[str, npt.NDArray[Any]]:
    """The model's state as plain arrays, ready to be stored."""
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}


def load_model(
    config: Mapping[str, Any], weights: Mapping[str, npt.NDArray[Any]]
) -> EmbeddingModel:
    """Rebuild a stored model in evaluation mode."""
    model = build_model(ModelConfig.from_dict(config), seed=0)
    try:
        # A copy: stored arrays may be mapped read-only, and torch warns of those.
        model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
    except RuntimeError as error:
        raise CorruptError(
            f"the stored weights don't fit the stored configuration: {error}"
        ) from error
    return model.eval()
