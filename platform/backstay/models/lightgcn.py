"""LightGCN: embeddings smoothed over the interaction graph, without other weights."""

from typing import Self

import torch
from torch import Tensor, nn

from backstay.models.graph import SparseMatrix, dst_of
from backstay.models.protocol import EmbeddingModel, ModelConfig, inherit_rows

SCALE = 0.1
"""Standard deviation of the embeddings at the start."""


class LightGCN(EmbeddingModel):
    """The mean of e, A·e, …, A^L·e with A = D^-½ · adjacency · D^-½ (arXiv 2002.02126, eq. 3–8).

    The paper's e is a free vector for every node. Here an item's e is the sum over attribute kinds,
    its own id among them, of the mean of its attribute embeddings; all users share one e. So a new
    user's vector comes from its items, and a new item's from its attributes and users. An item with
    neither a known attribute nor an edge gets the zero vector.

    As e + A·e + A²·e = e + A·(e + A·e), a layer computes z ← e + A·z. Layers pass on z beside e,
    (nodes, 2·dim).
    """

    normalisation = "symmetric"
    uses_item_ids = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        # A user, then the values.
        self.table = nn.Parameter(SCALE * torch.randn(1 + sum(config.values), config.dim))

    def start(self, inputs: SparseMatrix) -> Tensor:
        """Messages are (e, 0) and own parts (e, e), so that each dst gets (A·e + e, e)."""
        e = inputs @ self.table
        return torch.cat([e, torch.zeros_like(e), e, e], dim=1)

    def layer(self, number: int, h: Tensor, matrix: SparseMatrix) -> Tensor:
        """Z ← e + A·z; the last layer divides by the number of terms."""
        dim = self.config.dim
        if number == 0:
            h = matrix @ h.view(-1, 2 * dim)
            z, e = h[:, :dim], h[:, dim:]
        else:
            e = h[:, dim:].index_select(0, dst_of(matrix))
            # Multiply the z half only; e is copied.
            z = (matrix @ h[:, :dim].contiguous())[::2] + e
        return z / (self.n_layers + 1) if number == self.n_layers - 1 else torch.cat([z, e], dim=1)

    @torch.no_grad()
    def inherit(self, older: Self, rows: Tensor) -> bool:
        """Copy the embeddings; False if the depths differ, because the vectors would differ too."""
        if older.n_layers != self.n_layers:
            return False
        inherit_rows(self.table, older.table, rows)
        return True
