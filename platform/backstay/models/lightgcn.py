"""LightGCN: nothing but embeddings, smoothed over the interaction graph."""

from typing import Self

import torch
from torch import Tensor, nn

from backstay.models.graph import SparseMatrix, hearers_of
from backstay.models.protocol import EmbeddingModel, ModelConfig, inherit_rows

SCALE = 0.1
"""Standard deviation of the embeddings at the start."""


class LightGCN(EmbeddingModel):
    """The mean of e, A·e, …, A^L·e with A = D^-½ · adjacency · D^-½ (arXiv 2002.02126, eq. 3–8).

    The paper's e is a free vector for every node. Here an item's is the sum over attribute kinds,
    its own id among them, of the mean of its attribute embeddings, and all users share one. So new
    users live on their items, new items on their attributes and users; an item of which nothing is
    known, not an attribute nor an edge, gets the zero vector.

    With e + A·e + A²·e = e + A·(e + A·e), a round is z ← e + A·z, where e travels along: a state
    is z beside e, (nodes, 2·dim).
    """

    normalisation = "symmetric"
    knows_items = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        # A user, then the values.
        self.table = nn.Parameter(SCALE * torch.randn(1 + sum(config.values), config.dim))

    def start(self, inputs: SparseMatrix) -> Tensor:
        """Sent is (e, 0), kept is (e, e), so that hearers have (A·e + e, e)."""
        e = inputs @ self.table
        return torch.cat([e, torch.zeros_like(e), e, e], dim=1)

    def round(self, number: int, h: Tensor, matrix: SparseMatrix) -> Tensor:
        """Let z be A·z + e."""
        dim = self.config.dim
        if number == 0:
            h = matrix @ h.view(-1, 2 * dim)
            z, e = h[:, :dim], h[:, dim:]
        else:
            e = h[:, dim:].index_select(0, hearers_of(matrix))
            # Not the product of both halves: half of that would be for nothing.
            z = (matrix @ h[:, :dim].contiguous())[::2] + e
        return z / (self.rounds + 1) if number == self.rounds - 1 else torch.cat([z, e], dim=1)

    @torch.no_grad()
    def inherit(self, older: Self, rows: Tensor) -> bool:
        """Take over the embeddings; more rounds would make other vectors of them."""
        if older.rounds != self.rounds:
            return False
        inherit_rows(self.table, older.table, rows)
        return True
