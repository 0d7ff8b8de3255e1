"""PinSAGE as the paper uses it: GraphSAGE with mean aggregation over the interaction graph."""

import torch
from torch import Tensor, nn

from backstay.models.graph import Graph
from backstay.models.protocol import ModelConfig


class PinSAGE(nn.Module):
    """L layers of `W_l·mean(neighbours) + W_r·self`, each followed by batch norm, ReLU between.

    All users share one learned input vector; an item's input is the sum over attribute kinds of
    the mean of its attribute embeddings. So the model embeds users and items it never saw.

    A layer's weight is W_l above W_r, and is applied before the mean, `mean(W_l·neighbours)`. That
    is the same and lets the first layer multiply attribute values instead of nodes. The layers
    have no bias, since batch norm would take it out again.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.table = nn.Parameter(torch.randn(1 + sum(config.values), dim))  # user, then values
        self.layers = nn.ModuleList(
            nn.Linear(dim, 2 * dim, bias=False) for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(config.layers))

    def forward(self, graph: Graph) -> Tensor:
        """Embed every node of `graph`: (N, D) float32."""
        offers = graph.inputs @ self.layers[0](self.table)
        z: Tensor = self.norms[0](graph.first_exchange @ offers.view(-1, self.config.dim))
        for layer, norm in zip(self.layers[1:], self.norms[1:], strict=True):
            offers = layer(torch.relu_(z))
            z = norm(graph.exchange @ offers.view(-1, self.config.dim))
        return z
