"""Matrix factorisation that needs no vector of a user's own."""

from typing import Self

import torch
from torch import Tensor, nn

from backstay.models.graph import SparseMatrix
from backstay.models.protocol import EmbeddingModel, ModelConfig, inherit_rows

SCALE = 0.1
"""Standard deviation of the factors at the start."""


class Factorisation(EmbeddingModel):
    """An item is p_i; a user is a vector shared by all plus the mean of its items' second factors.

    This is the user of Asymmetric-SVD (Koren, KDD 2008, eq. 13) without ratings, and with a mean
    for its root: user and item meet in p_i · (c + mean of y_j). Both factors of an item are the sum
    over attribute kinds, its own id among them, of the mean of its attributes' factors. So new
    users live on their items, new items on their attributes; an item without any that is known
    gets the zero vector, and so does a user's mean of such items.

    It takes one round of messages, whatever the configuration's `layers` say.
    """

    knows_items = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        # A user, then the values; of each y, then p. A user's y is never sent.
        self.table = nn.Parameter(SCALE * torch.randn(1 + sum(config.values), 2, config.dim))

    @property
    def rounds(self) -> int:
        """One."""
        return 1

    def start(self, inputs: SparseMatrix) -> Tensor:
        """Items send y and keep p; users send nothing."""
        offers = inputs @ self.table.flatten(1)
        offers[0, : self.config.dim] = 0
        return offers

    def round(self, number: int, h: Tensor, matrix: SparseMatrix) -> Tensor:  # noqa: ARG002
        """The mean of what a node hears, plus what it keeps."""
        return matrix @ h.view(-1, self.config.dim)

    @torch.no_grad()
    def inherit(self, older: Self, rows: Tensor) -> bool:
        """Take over both factors."""
        inherit_rows(self.table, older.table, rows)
        return True
