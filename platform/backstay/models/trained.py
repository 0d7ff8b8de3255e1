"""A finished model as plain arrays: it can be stored, sent to a worker, and run anywhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from backstay.datasets.dataset import Attributes, Vocabulary
from backstay.datasets.timeline import Step
from backstay.errors import CorruptError
from backstay.models.architectures import load_model
from backstay.models.inference import embed
from backstay.models.protocol import EmbeddingModel, ModelConfig
from backstay.models.snapshot import Snapshot

_BASE = "base"
_UNDER_BASE = "base/"
_BASIS = "basis"


@dataclass(frozen=True)
class TrainedModel:
    """A network with its weights and the attribute values it knows, maybe built onto another one.

    With a `base`, a vector is basis · [z_base; z_own]: the base model's vector and the network's
    own, side by side, in another basis.
    """

    config: ModelConfig
    weights: Mapping[str, npt.NDArray[Any]]
    vocabulary: Vocabulary
    base: "TrainedModel | None" = None
    basis: npt.NDArray[np.float32] | None = None  # (D_k, D_k), where there is a base

    @property
    def dim(self) -> int:
        """D_k, numbers per vector."""
        return self.config.dim + (self.base.dim if self.base else 0)

    @property
    def lineage(self) -> "tuple[TrainedModel, ...]":
        """The models that are built onto each other, oldest first; this one is the last."""
        return (*(self.base.lineage if self.base else ()), self)

    def load(self) -> EmbeddingModel:
        """The network, in evaluation mode; without its base."""
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
        known = self.base.embed(step, attributes, device=device)
        split = self.base.dim
        joined = known @ self.basis[:, :split].T
        joined += z @ self.basis[:, split:].T
        return joined

    def to_parts(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]], Vocabulary]:
        """Configuration for JSON, arrays by name, and attribute values by kind; bases included."""
        config, weights = self.config.to_dict(), dict(self.weights)
        vocabulary = dict(self.vocabulary)
        if self.base is not None and self.basis is not None:
            inner, arrays, values = self.base.to_parts()
            config[_BASE], weights[_BASIS] = inner, self.basis
            weights |= {_UNDER_BASE + name: array for name, array in arrays.items()}
            vocabulary |= {_UNDER_BASE + kind: known for kind, known in values.items()}
        return config, weights, vocabulary

    @classmethod
    def from_parts(
        cls,
        config: Mapping[str, Any],
        weights: Mapping[str, npt.NDArray[Any]],
        vocabulary: Mapping[str, tuple[str, ...]],
    ) -> Self:
        """Undo `to_parts`; CorruptError where a part is missing."""
        own = {name: value for name, value in config.items() if name != _BASE}
        if _BASE not in config:
            return cls(ModelConfig.from_dict(own), weights, dict(vocabulary))
        if _BASIS not in weights:
            raise CorruptError("the stored model is built onto another one and has no basis.")
        base = cls.from_parts(config[_BASE], _under(weights), _under(vocabulary))
        arrays, values = _beside(weights), _beside(vocabulary)
        basis = arrays.pop(_BASIS)
        return cls(ModelConfig.from_dict(own), arrays, values, base, basis)


def _under(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to the base."""
    return {
        name.removeprefix(_UNDER_BASE): part
        for name, part in parts.items()
        if name.startswith(_UNDER_BASE)
    }


def _beside(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to the model itself."""
    return {name: part for name, part in parts.items() if not name.startswith(_UNDER_BASE)}
