"""Every embedding model by name: build one, get its weights as arrays, load it again."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from backstay.errors import CorruptError, UsageError
from backstay.models.factorisation import Factorisation
from backstay.models.lightgcn import LightGCN
from backstay.models.pinsage import PinSAGE
from backstay.models.protocol import Array, EmbeddingModel, ModelConfig

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


def model_weights(model: EmbeddingModel) -> dict[str, Array]:
    """The model's state dict as plain arrays, ready to be stored."""
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}


def load_model(config: Mapping[str, Any], weights: Mapping[str, Array]) -> EmbeddingModel:
    """Rebuild a stored model in evaluation mode."""
    model = build_model(ModelConfig.from_dict(config), seed=0)
    try:
        # Copied: stored arrays may be mapped read-only, which torch warns about.
        model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
    except RuntimeError as error:
        raise CorruptError(
            f"expected weights of the stored configuration, found others: {error}. "
            "Restore the version's files from a backup"
        ) from error
    return model.eval()
