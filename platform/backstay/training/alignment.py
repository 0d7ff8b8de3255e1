"""Aligning a version with the one before: the map B_k as it is learned, and what it must meet."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from backstay.compat.losses import multi_step, single_step

BLOCK_ROWS = 1 << 16
"""Rows whose residual is held at once when all are judged."""


class Alignment:
    """The older maps, and the loss that says how well B_k leads to z_{k-1}."""

    def __init__(
        self,
        *,
        older_maps: Sequence[Tensor] = (),
        loss: Literal["single", "multi"] = "multi",
    ) -> None:
        """`older_maps` are B_{k-1}, …, B_1 as (D_{j-1}, D_j), newest first, never trained."""
        self._older = [matrix.detach() for matrix in older_maps]
        self._loss = loss

    def loss(self, backward: nn.Linear, z: Tensor, known: Tensor) -> Tensor:
        """The alignment loss of some nodes, z (n, D_k) and z_{k-1} (n, D_{k-1}): scalar."""
        residual = known - backward(z)
        if self._loss == "single":
            return single_step(residual)
        return multi_step(residual, [matrix.to(z.device) for matrix in self._older])


def fresh_map(dim: int, known: int, *, seed: int) -> nn.Linear:
    """An untrained B_k from D_k = `dim` to D_{k-1} = `known` dimensions; `weight` is its matrix."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(dim, known, bias=False)


@torch.no_grad()
def alignment_error(backward: nn.Linear, z: Tensor, known: Tensor) -> float:
    """The single-step loss over all nodes, z (N, D_k) and z_{k-1} (N, D_{k-1}), read by rows."""
    total = 0.0
    for start in range(0, len(z), BLOCK_ROWS):
        rows = z[start : start + BLOCK_ROWS]
        residual = known[start : start + BLOCK_ROWS].to(z.device) - backward(rows)
        total += float(single_step(residual)) * len(rows)
    return total / len(z)
