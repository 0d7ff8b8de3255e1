"""A trained model as plain arrays, which can be stored, sent to a worker and run anywhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from backstay.datasets.dataset import Attributes, Vocabulary
from backstay.datasets.timeline import Step
from backstay.errors import CorruptError
from backstay.models.architectures import load_model
from backstay.models.inference import embed
from backstay.models.protocol import Array, EmbeddingModel, ModelConfig
from backstay.models.snapshot import Snapshot

Part = TypeVar("Part")

_BASE = "base"
_UNDER_BASE = "base/"
_BASIS = "basis"


@dataclass(frozen=True)
class TrainedModel:
    """A network: its configuration, weights and vocabulary, and the model it extends, if any.

    With a `base`, a vector is basis · [z_base; z_own], where z_own is the network's own vector.
    """

    config: ModelConfig
    weights: Mapping[str, Array]
    vocabulary: Vocabulary
    base: "TrainedModel | None" = None
    basis: npt.NDArray[np.float32] | None = None  # (D_k, D_k), where there is a base

    @property
    def dim(self) -> int:
        """D_k, numbers per vector."""
        return self.config.dim + (self.base.dim if self.base else 0)

    @property
    def lineage(self) -> "tuple[TrainedModel, ...]":
        """The base models, oldest first, then this model."""
        return (*(self.base.lineage if self.base else ()), self)

    def load(self) -> EmbeddingModel:
        """The network alone, without its base, in evaluation mode."""
        return load_model(self.config.to_dict(), self.weights)

    def embed(
        self, step: Step, attributes: Attributes, *, device: str = "cpu"
    ) -> npt.NDArray[np.float32]:
        """The vectors of a step's users, then items: (n_users + n_items, dim) float32."""
        snapshot = Snapshot.of(step, attributes.reindexed(self.vocabulary))
        z: npt.NDArray[np.float32] = (
            embed(self.load().to(device), snapshot, device=device).cpu().numpy()
        )
        if self.base is None or self.basis is None:
            return z
        base = self.base.embed(step, attributes, device=device)
        split = self.base.dim
        joined = base @ self.basis[:, :split].T
        joined += z @ self.basis[:, split:].T
        return joined

    def to_parts(self) -> tuple[dict[str, object], dict[str, Array], Vocabulary]:
        """Configuration as JSON, arrays by name, values by attribute kind; bases included."""
        config, weights = self.config.to_dict(), dict(self.weights)
        vocabulary = dict(self.vocabulary)
        if self.base is not None and self.basis is not None:
            inner, arrays, values = self.base.to_parts()
            config[_BASE], weights[_BASIS] = inner, self.basis
            weights |= {_UNDER_BASE + name: array for name, array in arrays.items()}
            vocabulary |= {_UNDER_BASE + kind: found for kind, found in values.items()}
        return config, weights, vocabulary

    @classmethod
    def from_parts(
        cls,
        config: Mapping[str, Any],
        weights: Mapping[str, Array],
        vocabulary: Mapping[str, tuple[str, ...]],
    ) -> Self:
        """The inverse of `to_parts`. Raises CorruptError where a part is missing."""
        own = {name: value for name, value in config.items() if name != _BASE}
        if _BASE not in config:
            return cls(ModelConfig.from_dict(own), weights, dict(vocabulary))
        if _BASIS not in weights:
            raise CorruptError(
                "expected a basis, because the stored model extends another one; found none. "
                "Restore the version's files from a backup."
            )
        base = cls.from_parts(config[_BASE], _under(weights), _under(vocabulary))
        arrays, values = _beside(weights), _beside(vocabulary)
        basis = arrays.pop(_BASIS).astype(np.float32, copy=False)
        return cls(ModelConfig.from_dict(own), arrays, values, base, basis)


def _under(parts: Mapping[str, Part]) -> dict[str, Part]:
    """The parts of the base."""
    return {
        name.removeprefix(_UNDER_BASE): part
        for name, part in parts.items()
        if name.startswith(_UNDER_BASE)
    }


def _beside(parts: Mapping[str, Part]) -> dict[str, Part]:
    """The parts of the model itself."""
    return {name: part for name, part in parts.items() if not name.startswith(_UNDER_BASE)}
