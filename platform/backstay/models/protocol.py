"""What the loop asks of an embedding model, and how one is made from its configuration."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from backstay.errors import CorruptError, UsageError
from backstay.models.graph import Graph


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All it takes to build an untrained model."""

    architecture: str = "pinsage"
    dim: int = 256  # D_k, numbers per vector
    layers: int = 2  # rounds of neighbourhood aggregation
    values: tuple[int, ...] = ()  # vocabulary size of every attribute kind

    def __post_init__(self) -> None:
        for field in ("dim", "layers"):
            if getattr(self, field) < 1:
                raise UsageError(f"{field} must be at least 1, found {getattr(self, field)}.")

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {"values": list(self.values)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Undo `to_dict`."""
        return cls(**{**raw, "values": tuple(raw["values"])})


@runtime_checkable
class EmbeddingModel(Protocol):
    """An inductive network: any snapshot in, a vector for every node out."""

    config: ModelConfig

    def __call__(self, graph: Graph) -> Tensor:
        """(n_users + n_items, dim) float32: users first, then items."""
        ...


def architectures() -> dict[str, type[nn.Module]]:
    """Every embedding model by the name a configuration calls it."""
    from backstay.models.pinsage import PinSAGE  # noqa: PLC0415  (architectures know this module)

    return {"pinsage": PinSAGE}


def build_model(config: ModelConfig, *, seed: int) -> nn.Module:
    """A freshly initialised model; the same seed gives the same weights."""
    known = architectures()
    if config.architecture not in known:
        raise UsageError(
            f"unknown architecture {config.architecture!r}; "
            f"expected one of {', '.join(sorted(known))}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return known[config.architecture](config)


def model_weights(model: nn.Module) -> dict[str, npt.NDArray[Any]]:
    """The model's state as plain arrays, ready to be stored."""
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}


def load_model(config: Mapping[str, Any], weights: Mapping[str, npt.NDArray[Any]]) -> nn.Module:
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
