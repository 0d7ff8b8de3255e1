"""PinSAGE as the paper uses it: GraphSAGE with mean aggregation over the interaction graph."""

import torch
from torch import Tensor, nn

from backstay.models.graph import Graph
from backstay.models.protocol import ModelConfig


class PinSAGE(nn.Module):
    """L layers of `W_l·mean(neighbours) + W_r·self`, each followed by batch norm, ReLU between.

    All users share one learned input vector; an item's input is the sum over attribute kinds of
    the mean of its attribute embeddings. So the model embeds users and items it never saw.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.user = nn.Parameter(torch.randn(1, dim))
        self.attributes = nn.ParameterList(torch.randn(count, dim) for count in config.values)
        self.from_neighbours = nn.ModuleList(nn.Linear(dim, dim) for _ in range(config.layers))
        self.from_self = nn.ModuleList(
            nn.Linear(dim, dim, bias=False) for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(config.layers))

    def forward(self, graph: Graph) -> Tensor:
        """Embed every node of `graph`: (N, D) float32."""
        users = self.user.expand(graph.n_users, -1)
        items = users.new_zeros(graph.n_items, self.config.dim)
        for rows, table in zip(graph.attributes, self.attributes, strict=True):
            items = items + rows @ table
        z = torch.cat([users, items])
        for layer, (neighbours, own, norm) in enumerate(
            zip(self.from_neighbours, self.from_self, self.norms, strict=True)
        ):
            z = norm(neighbours(graph.neighbours @ z) + own(z))
            if layer < self.config.layers - 1:
                z = torch.relu(z)
        return z
