"""The interface of an embedding model, and the configuration that builds one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from backstay.checks import AtLeastOne, check_fields
from backstay.models.graph import Graph, SparseMatrix
from backstay.models.snapshot import Normalisation

Array = npt.NDArray[np.generic]
"""The weights of a model: arrays of any dtype."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that is needed to build an untrained model."""

    architecture: str = "pinsage"
    dim: AtLeastOne = 256  # D_k, numbers per vector
    layers: AtLeastOne = 2  # layers of neighbourhood aggregation
    values: tuple[int, ...] = ()  # vocabulary size of every attribute kind

    def __post_init__(self) -> None:
        check_fields(self)

    def to_dict(self) -> dict[str, object]:
        """The configuration as JSON."""
        return asdict(self) | {"values": list(self.values)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{**raw, "values": tuple(raw["values"])})


class EmbeddingModel(nn.Module, ABC):
    """An inductive network that gives every node of any snapshot a vector.

    It is computed layer by layer. So a batch can run it on few nodes, and inference on one block of
    nodes after the other.
    """

    normalisation: ClassVar[Normalisation] = "mean"
    """The weight of a message."""

    uses_item_ids: ClassVar[bool] = False
    """Whether an item's own id is one of its attributes; see `Attributes.with_ids`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def n_layers(self) -> int:
        """The number of message-passing layers, at least 1."""
        return self.config.layers

    def forward(self, graph: Graph) -> Tensor:
        """Embed the nodes of the graph's last layer: (dst, dim) float32."""
        h = self.start(graph.inputs)
        for number in range(self.n_layers):
            h = self.layer(number, h, graph.gather(number) if number else graph.first)
        return h

    @abstractmethod
    def start(self, inputs: SparseMatrix) -> Tensor:
        """The message and own part of every distinct node, side by side: the input of layer 0.

        `inputs` is (distinct, values); the result is (distinct, 2·width).
        """

    @abstractmethod
    def layer(self, number: int, h: Tensor, matrix: SparseMatrix) -> Tensor:
        """Compute layer `number`, from 0: one row per dst.

        In layer 0, `h` is the result of `start` and `matrix` a `Graph.first`. Later, `h` is the
        output of the layer before, (src, width), and `matrix` a `Graph.gather`. The last layer
        gives the vectors, (dst, dim).
        """

    def rescale(self, *, table: float, output: float) -> None:
        """Scale the input table and the output of an untrained model. By default does nothing."""

    @abstractmethod
    def inherit(self, older: Self, rows: Tensor) -> bool:
        """Initialise so that the first dimensions equal the vectors of `older`.

        `older` has no more dimensions or layers than this model. `rows` (values,) gives the row of
        the older input table for each of our values, -1 where it has none. The other dimensions
        stay random. Returns False, and changes nothing, where that is impossible.
        """


def inherit_rows(table: Tensor, older: Tensor, rows: Tensor) -> None:
    """Fill the first dimensions of a table (values, …, dim) from an older one, by `rows`.

    They become zero for values that the older table lacks.
    """
    dim, known = older.shape[-1], rows >= 0
    table[..., :dim] = 0
    table[known, ..., :dim] = older[rows[known]]
