"""What the loop asks of an embedding model, and the configuration one is made from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from backstay.errors import UsageError
from backstay.models.graph import Graph, SparseMatrix
from backstay.models.snapshot import Normalisation


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


class EmbeddingModel(nn.Module, ABC):
    """An inductive network: any snapshot in, a vector for every node out.

    It works in rounds of messages, one for each layer, so that a batch can run it on the few nodes
    that matter and inference on one block of nodes after the other.
    """

    normalisation: ClassVar[Normalisation] = "mean"
    """What a message counts."""

    knows_items: ClassVar[bool] = False
    """Whether an item's own id is to be one of its attributes; see `Attributes.with_ids`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def rounds(self) -> int:
        """How many rounds of messages the model runs, at least 1."""
        return self.config.layers

    def forward(self, graph: Graph) -> Tensor:
        """Embed the nodes that the graph's last round reaches: (hearers, dim) float32."""
        h = self.start(graph.inputs)
        for number in range(self.rounds):
            h = self.round(number, h, graph.gather(number) if number else graph.first)
        return h

    @abstractmethod
    def start(self, inputs: SparseMatrix) -> Tensor:
        """What the distinct nodes offer: rows that `Graph.first` takes, in pairs of equal width.

        `inputs` is (distinct, values); the result is (distinct, 2·width).
        """

    @abstractmethod
    def round(self, number: int, h: Tensor, matrix: SparseMatrix) -> Tensor:
        """Round `number`, from 0: offers or sources in, one row per hearer out.

        In round 0 `h` is what `start` gave and `matrix` a `Graph.first`; later `h` is the output
        of the round before, (sources, width), and `matrix` a `Graph.gather`. The last round gives
        the vectors, (hearers, dim).
        """

    def rescale(self, *, table: float, output: float) -> None:
        """Scale the input table and the vectors of a fresh model; nothing, where neither helps."""

    @abstractmethod
    def inherit(self, older: Self, rows: Tensor) -> bool:
        """Do in the first dimensions what `older` does, which has no more dimensions or layers.

        `rows` (values,) are the rows of the older input table that hold our values, -1 where it
        doesn't know them. The other dimensions begin at random. Returns False, and changes
        nothing, where that is impossible.
        """


def inherit_rows(table: Tensor, older: Tensor, rows: Tensor) -> None:
    """Fill the first dimensions of a table (values, …, dim) from an older one, by `rows`.

    Values that the older model doesn't know add nothing there.
    """
    dim, known = older.shape[-1], rows >= 0
    table[..., :dim] = 0
    table[known, ..., :dim] = older[rows[known]]
