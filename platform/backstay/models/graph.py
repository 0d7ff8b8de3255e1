"""The interaction graph of a snapshot, as the sparse matrices a message-passing model needs.

Nodes are numbered users first, then items: node(user u) = u, node(item i) = n_users + i.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backstay.datasets.dataset import Attributes
from backstay.datasets.timeline import Step


@dataclass(frozen=True)
class SparseMatrix:
    """A constant sparse matrix with its transpose, so that its gradient needs no conversion."""

    csr: Tensor  # (rows, columns) sparse CSR float32
    transposed: Tensor  # (columns, rows) sparse CSR float32

    @classmethod
    def of(
        cls,
        rows: npt.NDArray[Any],
        columns: npt.NDArray[Any],
        weights: npt.NDArray[np.float32],
        shape: tuple[int, int],
    ) -> Self:
        """Build from coordinates; entries that name the same cell add up."""
        return cls(
            _csr(rows, columns, weights, shape), _csr(columns, rows, weights, (shape[1], shape[0]))
        )

    def __matmul__(self, dense: Tensor) -> Tensor:
        product: Tensor = _SparseProduct.apply(self.csr, self.transposed, dense)  # type: ignore[no-untyped-call]
        return product

    def to(self, device: torch.device) -> Self:
        """A copy on `device`."""
        return type(self)(self.csr.to(device), self.transposed.to(device))


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, csr: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
        ctx.transposed = transposed
        return csr @ dense

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ gradient


@dataclass(frozen=True)
class Graph:
    """A snapshot: who is linked to whom, and what the items are made of."""

    n_users: int
    n_items: int
    neighbours: SparseMatrix  # (nodes, nodes): row n averages over the neighbours of node n
    attributes: tuple[SparseMatrix, ...]  # per kind, (n_items, values): row i averages i's values

    @classmethod
    def of(cls, step: Step, attributes: Attributes) -> Self:
        """The training graph of a step; `attributes` are indexed as the model knows them."""
        users = step.train.users.astype(np.int64)
        items = step.train.items.astype(np.int64) + step.n_users
        nodes = step.n_users + step.n_items
        rows = np.concatenate([users, items])
        columns = np.concatenate([items, users])
        degrees = np.bincount(rows, minlength=nodes)
        weights = (1.0 / degrees[rows]).astype(np.float32)
        kinds = []
        for kind in attributes.kinds:
            indptr = kind.indptr[: step.n_items + 1]
            lengths = np.diff(indptr)
            owners = np.repeat(np.arange(step.n_items), lengths)
            kinds.append(
                SparseMatrix.of(
                    owners,
                    kind.indices[: indptr[-1]],
                    (1.0 / lengths[owners]).astype(np.float32),
                    (step.n_items, len(kind.values)),
                )
            )
        return cls(
            step.n_users,
            step.n_items,
            SparseMatrix.of(rows, columns, weights, (nodes, nodes)),
            tuple(kinds),
        )

    def to(self, device: torch.device) -> Self:
        """A copy on `device`."""
        return type(self)(
            self.n_users,
            self.n_items,
            self.neighbours.to(device),
            tuple(kind.to(device) for kind in self.attributes),
        )


def _csr(
    rows: npt.NDArray[Any],
    columns: npt.NDArray[Any],
    weights: npt.NDArray[np.float32],
    shape: tuple[int, int],
) -> Tensor:
    order = np.lexsort((columns, rows))
    indptr = np.zeros(shape[0] + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=shape[0]), out=indptr[1:])
    with warnings.catch_warnings():
        # torch calls its CSR layout a beta; products with dense matrices are all we use of it.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(
            torch.from_numpy(indptr),
            torch.from_numpy(columns[order].astype(np.int64)),
            torch.from_numpy(weights[order]),
            size=shape,
            check_invariants=False,
        )
