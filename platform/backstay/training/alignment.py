"""Aligning a version with the one before: the map B_k as it is learned, and what it must meet."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from backstay.compat.losses import multi_step, single_step

BLOCK_ROWS = 1 << 16
"""Rows whose residual is held at once when all are judged."""


class Alignment:
    """z_{k-1} of every node, the older maps, and the loss that says how well B_k leads there."""

    def __init__(
        self,
        target: Tensor,
        *,
        older_maps: Sequence[Tensor] = (),
        loss: Literal["single", "multi"] = "multi",
    ) -> None:
        """Align to `target`.

        `target` is z_{k-1} (N, D_{k-1}) of M_{k-1} in evaluation mode on the training graph; it
        may be mapped or shared memory and is read by rows. `older_maps` are B_{k-1}, …, B_1 as
        (D_{j-1}, D_j), newest first, never trained.
        """
        self.target = target.detach()
        self._older = [matrix.detach() for matrix in older_maps]
        self._loss = loss

    def fresh_map(self, dim: int, *, seed: int) -> nn.Linear:
        """An untrained B_k from D_k = `dim` dimensions; `weight` is (D_{k-1}, D_k)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Linear(dim, self.target.shape[1], bias=False)

    def loss(self, backward: nn.Linear, z: Tensor, nodes: Tensor) -> Tensor:
        """The alignment loss of the rows `z` (n, D_k) of some nodes: scalar."""
        residual = self._rows(nodes, z.device) - backward(z)
        if self._loss == "single":
            return single_step(residual)
        return multi_step(residual, [matrix.to(z.device) for matrix in self._older])

    @torch.no_grad()
    def error(self, backward: nn.Linear, z: Tensor) -> float:
        """The single-step loss over all nodes, z (N, D_k)."""
        total = 0.0
        for start in range(0, len(z), BLOCK_ROWS):
            rows = z[start : start + BLOCK_ROWS]
            residual = self.target[start : start + BLOCK_ROWS].to(z.device) - backward(rows)
            total += float(single_step(residual)) * len(rows)
        return total / len(z)

    def _rows(self, nodes: Tensor, device: torch.device) -> Tensor:
        return self.target.index_select(0, nodes.to(self.target.device)).to(device)
