"""PinSAGE as the paper uses it: GraphSAGE with mean aggregation over the interaction graph."""

import math
from typing import Self, cast

import torch
from torch import Tensor, nn

from backstay.models.graph import SparseMatrix
from backstay.models.protocol import EmbeddingModel, ModelConfig, inherit_rows


class PinSAGE(EmbeddingModel):
    """L layers of `W_l·mean(neighbours) + W_r·self`, each followed by batch norm, ReLU between.

    All users share one learned input vector; an item's input is the sum over attribute kinds of
    the mean of its attribute embeddings. So the model also embeds new users and items.

    A layer's weight is W_l stacked on W_r. The first layer multiplies by it before taking the mean:
    the result is the same, and it multiplies distinct nodes or attribute values, whichever are
    fewer. The layers have no bias, because batch norm would subtract it again.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.table = nn.Parameter(torch.randn(1 + sum(config.values), dim))  # user, then values
        self.layers = nn.ModuleList(
            nn.Linear(dim, 2 * dim, bias=False) for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(config.layers))

    def start(self, inputs: SparseMatrix) -> Tensor:
        """The inputs times W_l and W_r: (distinct, 2·dim)."""
        weight = self.weight(0).T
        nodes, values = inputs.shape
        return (inputs @ self.table) @ weight if nodes < values else inputs @ (self.table @ weight)

    def layer(self, number: int, h: Tensor, matrix: SparseMatrix) -> Tensor:
        """One layer: aggregate, batch norm, ReLU unless it is the last."""
        dim = self.config.dim
        if number == 0:
            z = matrix @ h.view(-1, dim)
        else:
            weight = self.weight(number).view(2, dim, dim).transpose(1, 2)
            z = (matrix @ h).view(-1, 2 * dim) @ weight.reshape(2 * dim, dim)
        z = self.norm(number)(z)
        return z if number == self.n_layers - 1 else torch.relu_(z)

    def weight(self, number: int) -> nn.Parameter:
        """A layer's weight: (2·dim, dim)."""
        return self.get_parameter(f"layers.{number}.weight")

    def norm(self, number: int) -> nn.BatchNorm1d:
        """The batch norm of a layer."""
        return cast("nn.BatchNorm1d", self.norms[number])

    def rescale(self, *, table: float, output: float) -> None:
        """Scale the input table and the weight of the last batch norm."""
        with torch.no_grad():
            self.table.mul_(table)
            self.norm(-1).weight.mul_(output)

    @torch.no_grad()
    def inherit(self, older: Self, rows: Tensor) -> bool:
        """Copy table, layers and batch norms; a new layer starts as the identity.

        New layers are inserted before the last one. Their inputs come from a ReLU, so the ReLU
        after the identity changes nothing.
        """
        theirs, last = older.n_layers, self.n_layers - 1
        if theirs == 1 and last > 0:
            return False
        dim = older.config.dim
        inherit_rows(self.table, older.table, rows)
        for number in range(self.n_layers):
            weight = self.weight(number).view(2, self.config.dim, self.config.dim)
            weight[:, :dim] = 0
            if theirs - 1 <= number < last:
                weight[1, :dim, :dim] = torch.eye(dim)
                _restore(self.norm(number), older.norm(theirs - 2))
                continue
            source = min(number, theirs - 1)
            weight[:, :dim, :dim] = older.weight(source).view(2, dim, dim)
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(self.norm(number), name)[:dim] = getattr(older.norm(source), name)
        self.norm(-1).weight[dim:] = older.norm(-1).weight.abs().mean()
        return True


def _restore(norm: nn.BatchNorm1d, before: nn.BatchNorm1d) -> None:
    """Set a batch norm to leave the output of `before` and a ReLU unchanged, if that were normal.

    For y ~ N(β, γ²), relu(y) has mean βΦ(β/γ) + γφ(β/γ) and second moment (β² + γ²)Φ + βγφ.
    """
    scale, shift = before.weight.abs().clamp(min=1e-6), before.bias
    ratio = shift / scale
    below, density = torch.special.ndtr(ratio), (-(ratio**2) / 2).exp() / math.sqrt(2 * math.pi)
    mean = shift * below + scale * density
    variance = (shift**2 + scale**2) * below + shift * scale * density - mean**2
    variance.clamp_(min=1e-8)
    state = {"weight": variance.sqrt(), "bias": mean, "running_mean": mean, "running_var": variance}
    for name, value in state.items():
        getattr(norm, name)[: len(scale)] = value
