"""A snapshot's graph as the sparse matrices that a message-passing model multiplies with."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backstay.datasets.csr import Integers, starts_of
from backstay.datasets.dataset import Attributes
from backstay.datasets.timeline import Step
from backstay.models.snapshot import Links, Normalisation, Snapshot


@dataclass(frozen=True)
class SparseMatrix:
    """A constant sparse matrix; the first backward pass computes its transpose, once."""

    csr: Tensor  # (rows, columns) sparse CSR float32

    @classmethod
    def of(
        cls,
        starts: npt.NDArray[np.int64],
        columns: Integers,
        weights: npt.NDArray[np.float32],
        n_columns: int,
    ) -> Self:
        """From sparse rows: row r holds `columns[starts[r]:starts[r + 1]]`; repeats add up."""
        return cls(
            _csr(
                torch.from_numpy(starts.astype(np.int64, copy=False)),
                torch.from_numpy(columns.astype(np.int64, copy=False)),
                torch.from_numpy(weights.astype(np.float32, copy=False)),
                (len(starts) - 1, n_columns),
            )
        )

    @property
    def shape(self) -> torch.Size:
        """Rows, columns."""
        return self.csr.shape

    @cached_property
    def transposed(self) -> Tensor:
        """(columns, rows) sparse CSR float32."""
        rows, columns = self.shape
        indices = self.csr.col_indices()
        order = _stable_order(indices)
        owners = torch.repeat_interleave(self.csr.crow_indices().diff())
        starts = torch.zeros(columns + 1, dtype=torch.int64, device=indices.device)
        starts[1:] = torch.bincount(indices, minlength=columns).cumsum(0)
        return _csr(starts, owners[order], self.csr.values()[order], (columns, rows))

    def __matmul__(self, dense: Tensor) -> Tensor:
        product: Tensor = _SparseProduct.apply(self, dense)  # type: ignore[no-untyped-call]
        return product

    def to(self, device: torch.device) -> Self:
        """Copy to `device`."""
        return type(self)(self.csr.to(device))


def _stable_order(indices: Tensor) -> Tensor:
    """A stable `argsort`; on the CPU it sorts combined keys, which is several times faster."""
    if indices.device.type != "cpu":
        return indices.argsort(stable=True)
    count = max(len(indices), 1)
    keys = indices.numpy() * count + np.arange(len(indices))
    keys.sort()
    return torch.from_numpy(keys % count)


class _Context(Protocol):
    """What torch passes from forward to backward."""

    matrix: SparseMatrix


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: "_Context", matrix: SparseMatrix, dense: Tensor) -> Tensor:
        ctx.matrix = matrix
        return _product(matrix.csr, dense)

    @staticmethod
    def backward(ctx: "_Context", gradient: Tensor) -> tuple[None, Tensor]:
        return None, _product(ctx.matrix.transposed, gradient.contiguous())


def _product(csr: Tensor, dense: Tensor) -> Tensor:
    # `csr @ dense` zero-fills and copies its output; this writes the output once.
    out = dense.new_empty(csr.shape[0], dense.shape[1])
    return torch.addmm(out, csr, dense, beta=0, out=out)


@dataclass(frozen=True)
class Graph:
    """The input matrix, and one matrix per layer.

    Before the first layer every distinct node n has two vectors: its message in row 2n and its own
    part in row 2n + 1. The first matrix adds them up to one row per dst: the weighted sum of the
    neighbours' messages plus the node's own part. Later matrices gather: row 2n is the weighted sum
    over the neighbours of dst n, row 2n + 1 is dst n itself.
    """

    inputs: SparseMatrix  # (distinct, values): a user has value 0, an item averages each kind
    first: SparseMatrix  # (dst, 2·distinct)
    further: tuple[SparseMatrix, ...]  # each (2·dst, src); the last serves all later layers

    @classmethod
    def of(
        cls, step: Step, attributes: Attributes, normalisation: Normalisation = "mean"
    ) -> "Graph":
        """The training graph of a step; `attributes` are indexed by the model's vocabulary."""
        return full_graph(Snapshot.of(step, attributes), normalisation)

    @property
    def device(self) -> torch.device:
        """The device that holds the matrices."""
        return self.inputs.csr.device

    def gather(self, number: int) -> SparseMatrix:
        """The matrix of layer `number`, at least 1; layer 0 uses `first`."""
        return self.further[min(number, len(self.further)) - 1]

    def to(self, device: torch.device) -> Self:
        """Copy to `device`."""
        return type(self)(
            self.inputs.to(device),
            self.first.to(device),
            tuple(matrix.to(device) for matrix in self.further),
        )


def full_graph(snapshot: Snapshot, normalisation: Normalisation) -> Graph:
    """The graph of every node with all of its neighbours in every layer."""
    nodes = np.arange(snapshot.n_nodes)
    return Graph(
        input_matrix(snapshot, np.arange(1 + snapshot.n_items)),
        first_matrix(snapshot, first_links(snapshot, nodes, normalisation)),
        (gather_matrix(snapshot.links(nodes, normalisation), snapshot.n_nodes),),
    )


def input_matrix(snapshot: Snapshot, distinct: Integers) -> SparseMatrix:
    """(len(distinct), values): the attribute values of the given distinct nodes, weighted."""
    entries = snapshot.inputs.entries(distinct)
    return SparseMatrix.of(
        starts_of(snapshot.inputs.counts(distinct)),
        snapshot.inputs.columns[entries],
        snapshot.input_weights[entries],
        snapshot.n_values,
    )


def first_links(snapshot: Snapshot, dst: Integers, normalisation: Normalisation) -> Links:
    """First-layer edges. Users share one input vector, so an item has one edge for all of them."""
    split = np.searchsorted(dst, snapshot.n_users)
    by_users = snapshot.links(dst[:split], normalisation)
    return with_items(snapshot, by_users, dst[split:], normalisation)


def with_items(
    snapshot: Snapshot, by_users: Links, items: Integers, normalisation: Normalisation
) -> Links:
    """First-layer edges: `by_users`, then the one collapsed edge of each of the given items."""
    counts = np.minimum(snapshot.neighbours.counts(items), 1)
    if normalisation == "mean":
        weights = np.ones(counts.sum(), np.float32)
    else:
        weights = snapshot.reach[items[counts > 0]].astype(np.float32)
    return Links(
        np.concatenate([by_users.dst, items]),
        np.concatenate([by_users.counts, counts]),
        np.concatenate([by_users.src, np.zeros(counts.sum(), np.int64)]),
        np.concatenate([by_users.weights, weights]),
    )


def first_matrix(
    snapshot: Snapshot, links: Links, places: Integers | None = None, count: int | None = None
) -> SparseMatrix:
    """(dst, 2·distinct) over all distinct nodes, or over `count` of them at the given `places`."""
    src, own = snapshot.distinct(links.src), snapshot.distinct(links.dst)
    if places is not None:
        src, own = places[src].astype(np.int64), places[own].astype(np.int64)
    count = 1 + snapshot.n_items if count is None else count
    starts, columns, weights = _with_own(links, 2 * src, 2 * own + 1)
    return SparseMatrix.of(starts, columns, weights, 2 * count)


def gather_matrix(links: Links, n_sources: int) -> SparseMatrix:
    """(2·dst, n_sources); src and dst are numbered by their position among the sources."""
    starts, columns, weights = _with_own(links, links.src, links.dst)
    ends = starts[1:]
    return SparseMatrix.of(
        np.concatenate([starts[:1], np.stack([ends - 1, ends], axis=1).ravel()]),
        columns,
        weights,
        n_sources,
    )


def dst_of(gather: SparseMatrix) -> Tensor:
    """(dst,) int64: the position of each dst of a gather matrix among its sources."""
    # Each odd row holds one entry: the dst itself.
    return gather.csr.col_indices()[gather.csr.crow_indices()[1:-1:2]]


def _with_own(
    links: Links, src: Integers, own: Integers
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Sparse rows of the links; the last entry of each row is its own column, of weight 1."""
    starts = starts_of(links.counts + 1)
    columns, weights = np.empty(starts[-1], np.int64), np.ones(starts[-1], np.float32)
    last = np.zeros(len(columns), np.bool_)
    last[starts[1:] - 1] = True
    columns[last] = own
    columns[~last] = src
    weights[~last] = links.weights
    return starts, columns, weights


def _csr(starts: Tensor, columns: Tensor, weights: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        # torch warns that CSR is in beta; only products with dense matrices are used here.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        # Columns may repeat and come in any order; products accept both.
        return torch.sparse_csr_tensor(starts, columns, weights, size=shape, check_invariants=False)
