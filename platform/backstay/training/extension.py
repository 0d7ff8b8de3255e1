"""Building a version onto the one before: old dimensions in a new basis, new ones beside them.

z_k = W · [z_{k-1}; e_k], where z_{k-1} is frozen, e_k is what a new network says, and W is square
and learned. So B_k, the first D_{k-1} rows of W⁻¹, leads back exactly, however W and e_k change
what is recommended: score = [z_u; e_u]ᵀ WᵀW [z_i; e_i].
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

RATE = 0.1
"""How far W moves per step, beside the rest of the network."""

STRETCH = 10.0
"""How much a map back may stretch a vector at most: 1 / the least singular value of W."""

_BLOCK_ROWS = 1 << 16


class Extension(nn.Module):
    """W, which begins as the identity."""

    def __init__(self, known: int, new: int) -> None:
        super().__init__()
        self.known = known  # D_{k-1}
        self.change = nn.Parameter(torch.zeros(known + new, known + new))

    @property
    def basis(self) -> Tensor:
        """W (D_k, D_k)."""
        return torch.eye(len(self.change), device=self.change.device) + RATE * self.change

    def forward(self, known: Tensor, new: Tensor) -> Tensor:
        """z_k (n, D_k) of z_{k-1} (n, D_{k-1}) and e_k (n, D_k - D_{k-1})."""
        basis = self.basis.T
        return torch.addmm(known @ basis[: self.known], new, basis[self.known :])

    @torch.no_grad()
    def whole(self, known: Tensor, new: Tensor) -> Tensor:
        """The same for tables of any length, which may lie in mapped memory; on the CPU."""
        z = torch.empty(len(new), len(self.change))
        device = self.change.device
        for rows in torch.split(torch.arange(len(new)), _BLOCK_ROWS):
            block = slice(int(rows[0]), int(rows[-1]) + 1)
            z[block] = self(known[block].to(device), new[block].to(device)).cpu()
        return z

    @torch.no_grad()
    def settle(self) -> None:
        """Raise the least singular values of W, so that W⁻¹ stretches by `STRETCH` at most."""
        left, values, right = torch.linalg.svd(self.basis.double())
        basis = left * values.clamp(min=1 / STRETCH) @ right
        eye = torch.eye(len(basis), dtype=basis.dtype, device=basis.device)
        self.change.copy_((basis - eye) / RATE)


def undo(basis: npt.NDArray[np.float32], known: int) -> npt.NDArray[np.float32]:
    """B_k (D_{k-1}, D_k) of W (D_k, D_k): the first D_{k-1} = `known` rows of its inverse."""
    inverse: npt.NDArray[np.float64] = np.linalg.inv(basis.astype(np.float64))
    return inverse[:known].astype(np.float32)
