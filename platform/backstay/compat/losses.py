"""Alignment losses in torch: the distance of B_k z_k from z_{k-1}.

Legend of shapes: n rows of a batch, D_k dimensions of version k.
"""

from collections.abc import Sequence

from torch import Tensor


def single_step(residual: Tensor) -> Tensor:
    """mean(r²) of r = z_{k-1} - B_k z_k, (n, D_{k-1}): scalar. arXiv 2206.03040."""
    return residual.square().mean()


def multi_step(residual: Tensor, older_maps: Sequence[Tensor]) -> Tensor:
    """The mean over j = k-1 … 0 of mean((B_{j+1} … B_{k-1} r)²): scalar. arXiv 2206.03040.

    `residual` is r = z_{k-1} - B_k z_k, (n, D_{k-1}); `older_maps` are the frozen matrices
    B_{k-1}, …, B_1, newest first, each (D_{j-1}, D_j). Without older maps it is `single_step`.
    """
    loss = single_step(residual)
    for matrix in older_maps:
        residual = residual @ matrix.T
        loss = loss + single_step(residual)
    return loss / (1 + len(older_maps))
