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
        weights: npt.NDArray[np.floating[Any]],
        shape: tuple[int, int],
    ) -> Self:
        """Build from coordinates; entries that name the same cell add up."""
        cells, inverse = np.unique(
            rows.astype(np.int64) * shape[1] + columns, return_inverse=True
        )  # sorted by row, then column
        rows, columns = np.divmod(cells, shape[1])
        weights = np.bincount(inverse, weights, len(cells)).astype(np.float32)
        by_column = np.argsort(columns, kind="stable")
        return cls(
            _csr(rows, columns, weights, shape),
            _csr(columns[by_column], rows[by_column], weights[by_column], shape[::-1]),
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
        return _product(csr, dense)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _product(ctx.transposed, gradient.contiguous())


def _product(csr: Tensor, dense: Tensor) -> Tensor:
    # `csr @ dense` fills and copies its output on the way; this writes it once.
    out = dense.new_empty(csr.shape[0], dense.shape[1])
    return torch.addmm(out, csr, dense, beta=0, out=out)


@dataclass(frozen=True)
class Graph:
    """A snapshot: what its nodes are made of, and who hears whom.

    In a round of messages every node offers two vectors, in rows 2n and 2n + 1: what it sends
    and what it keeps. An exchange matrix turns them into one row per node, the mean over what its
    neighbours send plus what it keeps itself.

    Users have no features of their own, so before the first round they are all alike and one
    node stands for them. The distinct nodes are then 0, any user, and 1 + i, item i.
    """

    n_users: int
    n_items: int
    inputs: SparseMatrix  # (distinct, 1 + values): a user is value 0, an item averages each kind
    first_exchange: SparseMatrix  # (nodes, 2·distinct)
    exchange: SparseMatrix  # (nodes, 2·nodes)

    @classmethod
    def of(cls, step: Step, attributes: Attributes) -> Self:
        """The training graph of a step; `attributes` are indexed as the model knows them."""
        nodes = step.n_users + step.n_items
        users, items = np.arange(step.n_users), np.arange(step.n_users, nodes)
        edges = (step.train.users.astype(np.int64), step.train.items + np.int64(step.n_users))
        distinct = np.concatenate([np.zeros_like(users), np.arange(1, step.n_items + 1)])
        return cls(
            step.n_users,
            step.n_items,
            _inputs(step.n_items, attributes),
            _exchange(edges, alias=distinct),
            _exchange(edges, alias=np.concatenate([users, items])),
        )

    @property
    def device(self) -> torch.device:
        """Where the matrices are."""
        return self.exchange.csr.device

    def to(self, device: torch.device) -> Self:
        """A copy on `device`."""
        return type(self)(
            self.n_users,
            self.n_items,
            self.inputs.to(device),
            self.first_exchange.to(device),
            self.exchange.to(device),
        )


def _inputs(n_items: int, attributes: Attributes) -> SparseMatrix:
    offset = 1
    rows, columns, weights = [np.arange(offset)], [np.arange(offset)], [np.ones(offset)]
    for kind in attributes.kinds:
        indptr = kind.indptr[: n_items + 1]
        lengths = np.diff(indptr)
        owners = np.repeat(np.arange(n_items), lengths)
        rows.append(1 + owners)
        columns.append(offset + kind.indices[: indptr[-1]].astype(np.int64))
        weights.append(1.0 / lengths[owners])
        offset += len(kind.values)
    return SparseMatrix.of(
        np.concatenate(rows),
        np.concatenate(columns),
        np.concatenate(weights),
        (1 + n_items, offset),
    )


def _exchange(
    edges: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], *, alias: npt.NDArray[np.int64]
) -> SparseMatrix:
    """The exchange among nodes linked by `edges`, where `alias[n]` is who stands for node n."""
    hearers, senders = np.concatenate(edges), np.concatenate(edges[::-1])
    degrees = np.bincount(hearers, minlength=len(alias))
    return SparseMatrix.of(
        np.concatenate([hearers, np.arange(len(alias))]),
        np.concatenate([2 * alias[senders], 2 * alias + 1]),
        np.concatenate([1.0 / degrees[hearers], np.ones(len(alias))]),
        (len(alias), 2 * (int(alias.max(initial=-1)) + 1)),
    )


def _csr(
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
    shape: tuple[int, ...],
) -> Tensor:
    """Coordinates in row order as torch's CSR."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
    with warnings.catch_warnings():
        # torch calls its CSR layout a beta; products with dense matrices are all we use of it.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(
            torch.from_numpy(starts),
            torch.from_numpy(columns),
            torch.from_numpy(weights),
            size=shape,
            check_invariants=True,
        )
