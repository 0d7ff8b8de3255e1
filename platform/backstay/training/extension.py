"""Extending the version before: its vectors and new dimensions side by side, in a new basis.

z_k = W · [z_{k-1}; e_k], where z_{k-1} is frozen, e_k is the output of a new network, and W is
square and trained. B_k is the first D_{k-1} rows of W⁻¹. It recovers z_{k-1} exactly, whatever W
and e_k are trained to: score = [z_u; e_u]ᵀ WᵀW [z_i; e_i].
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

RATE = 0.1
"""How far W moves per step, relative to the rest of the network."""

STRETCH = 10.0
"""The most that B_k may stretch a vector: 1 / the least singular value of W."""

BLOCK_ROWS = 1 << 16


class Extension(nn.Module):
    """W, initialised to the identity."""

    def __init__(self, older_dim: int, new_dim: int) -> None:
        super().__init__()
        self.older_dim = older_dim  # D_{k-1}
        self.change = nn.Parameter(torch.zeros(older_dim + new_dim, older_dim + new_dim))

    @property
    def basis(self) -> Tensor:
        """W (D_k, D_k)."""
        return torch.eye(len(self.change), device=self.change.device) + RATE * self.change

    def forward(self, older: Tensor, new: Tensor) -> Tensor:
        """z_k (n, D_k) of z_{k-1} (n, D_{k-1}) and e_k (n, D_k - D_{k-1})."""
        basis = self.basis.T
        return torch.addmm(older @ basis[: self.older_dim], new, basis[self.older_dim :])

    @torch.no_grad()
    def whole(self, older: Tensor, new: Tensor) -> Tensor:
        """`forward` in blocks of rows, for tables in CPU or mapped memory; returns CPU memory."""
        z = torch.empty(len(new), len(self.change))
        device = self.change.device
        for rows in torch.split(torch.arange(len(new)), BLOCK_ROWS):
            block = slice(int(rows[0]), int(rows[-1]) + 1)
            z[block] = self(older[block].to(device), new[block].to(device)).cpu()
        return z

    @torch.no_grad()
    def limit_stretch(self) -> None:
        """Raise the least singular values of W, so that W⁻¹ stretches by `STRETCH` at most."""
        left, values, right = torch.linalg.svd(self.basis.double())
        basis = left * values.clamp(min=1 / STRETCH) @ right
        eye = torch.eye(len(basis), dtype=basis.dtype, device=basis.device)
        self.change.copy_((basis - eye) / RATE)


def inverse_map(basis: npt.NDArray[np.float32], older_dim: int) -> npt.NDArray[np.float32]:
    """B_k (D_{k-1}, D_k) of W (D_k, D_k): the first D_{k-1} = `older_dim` rows of its inverse."""
    inverse: npt.NDArray[np.float64] = np.linalg.inv(basis.astype(np.float64))
    return inverse[:older_dim].astype(np.float32)
