"""What the loop asks of an embedding model, and the configuration one is made from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor

from backstay.errors import UsageError
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
