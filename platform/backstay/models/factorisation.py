"""Matrix factorisation without a vector per user."""

from typing import Self

import torch
from torch import Tensor, nn

from backstay.models.graph import SparseMatrix
from backstay.models.protocol import EmbeddingModel, ModelConfig, inherit_rows

SCALE = 0.1
"""Standard deviation of the factors at the start."""


class Factorisation(EmbeddingModel):
    """An item is p_i; a user is a vector shared by all plus the mean of its items' second factors.

    The user is that of Asymmetric-SVD (Koren, KDD 2008, eq. 13) without ratings, and with a mean
    instead of the root: the score is p_i · (c + mean of y_j). Both factors of an item are the sum
    over attribute kinds, its own id among them, of the mean of its attributes' factors. So a new
    user's vector comes from its items, and a new item's from its attributes. An item without a
    known attribute gets the zero vector.

    The model has one layer; the configuration's `layers` is ignored.
    """

    uses_item_ids = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        # Row 0 is the user, then the values; each row holds y, then p. The user's y is unused.
        self.table = nn.Parameter(SCALE * torch.randn(1 + sum(config.values), 2, config.dim))

    @property
    def n_layers(self) -> int:
        """One."""
        return 1

    def start(self, inputs: SparseMatrix) -> Tensor:
        """An item's message is y and its own part p; a user's message is zero."""
        start = inputs @ self.table.flatten(1)
        start[0, : self.config.dim] = 0
        return start

    def layer(self, number: int, h: Tensor, matrix: SparseMatrix) -> Tensor:  # noqa: ARG002
        """The mean of the neighbours' messages, plus the node's own part."""
        return matrix @ h.view(-1, self.config.dim)

    @torch.no_grad()
    def inherit(self, older: Self, rows: Tensor) -> bool:
        """Copy both factors."""
        inherit_rows(self.table, older.table, rows)
        return True
