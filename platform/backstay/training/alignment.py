"""Aligning a version with the one before: the map B_k and its loss."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from backstay.compat.losses import multi_step, single_step

BLOCK_ROWS = 1 << 16
"""Rows per block when the residual of all nodes is computed."""


class Alignment:
    """The alignment loss, and the older maps that it uses."""

    def __init__(
        self,
        *,
        older_maps: Sequence[Tensor] = (),
        loss: Literal["single", "multi"] = "multi",
    ) -> None:
        """`older_maps` are B_{k-1}, …, B_1 as (D_{j-1}, D_j), newest first; they stay fixed."""
        self._older = [matrix.detach() for matrix in older_maps]
        self._loss = loss

    def loss(self, backward: nn.Linear, z: Tensor, teacher: Tensor) -> Tensor:
        """The alignment loss of some nodes, z (n, D_k) and z_{k-1} (n, D_{k-1}): scalar."""
        residual = teacher - backward(z)
        if self._loss == "single":
            return single_step(residual)
        return multi_step(residual, [matrix.to(z.device) for matrix in self._older])


def fresh_map(dim: int, older_dim: int, *, seed: int) -> nn.Linear:
    """An untrained B_k from D_k = `dim` to D_{k-1} = `older_dim`; `weight` is its matrix."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(dim, older_dim, bias=False)


@torch.no_grad()
def alignment_residual(backward: nn.Linear, z: Tensor, teacher: Tensor) -> float:
    """The single-step loss over all nodes, z (N, D_k) and z_{k-1} (N, D_{k-1}), in blocks of rows.

    This is a mean square. The alignment error of reports is a mean L2 distance instead.
    """
    total = 0.0
    for start in range(0, len(z), BLOCK_ROWS):
        rows = z[start : start + BLOCK_ROWS]
        residual = teacher[start : start + BLOCK_ROWS].to(z.device) - backward(rows)
        total += float(single_step(residual)) * len(rows)
    return total / len(z)
