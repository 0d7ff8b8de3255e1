"""A snapshot's graph as the sparse matrices that a message-passing model multiplies with."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backstay.datasets.dataset import Attributes
from backstay.datasets.timeline import Step
from backstay.models.snapshot import Integers, Links, Normalisation, Snapshot


@dataclass(frozen=True)
class SparseMatrix:
    """A constant sparse matrix; its transpose is made once, when the first gradient asks for it."""

    csr: Tensor  # (rows, columns) sparse CSR float32

    @classmethod
    def of(
        cls,
        starts: Integers,
        columns: Integers,
        weights: npt.NDArray[np.floating[Any]],
        n_columns: int,
    ) -> Self:
        """From sparse rows: row r holds `columns[starts[r]:starts[r + 1]]`; repeated ones add."""
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
        """A copy on `device`."""
        return type(self)(self.csr.to(device))


def _stable_order(indices: Tensor) -> Tensor:
    """`argsort`, stable; on the CPU by sorting keys, which is several times faster."""
    if indices.device.type != "cpu":
        return indices.argsort(stable=True)
    count = max(len(indices), 1)
    keys = indices.numpy() * count + np.arange(len(indices))
    keys.sort()
    return torch.from_numpy(keys % count)


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: SparseMatrix, dense: Tensor) -> Tensor:
        ctx.matrix = matrix
        return _product(matrix.csr, dense)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, _product(ctx.matrix.transposed, gradient.contiguous())


def _product(csr: Tensor, dense: Tensor) -> Tensor:
    # `csr @ dense` fills and copies its output on the way; this writes it once.
    out = dense.new_empty(csr.shape[0], dense.shape[1])
    return torch.addmm(out, csr, dense, beta=0, out=out)


@dataclass(frozen=True)
class Graph:
    """Inputs, and one matrix per round of messages.

    Before the first round every distinct node offers two vectors, in rows 2n and 2n + 1: what it
    sends and what it keeps. The first matrix turns offers into one row per hearer, the weighted
    sum of what its neighbours send plus what it keeps itself. The others gather: row 2n is the
    weighted sum over n's neighbours, row 2n + 1 is n itself.
    """

    inputs: SparseMatrix  # (distinct, values): a user is value 0, an item averages each kind
    first: SparseMatrix  # (hearers, 2·distinct)
    further: tuple[SparseMatrix, ...]  # each (2·hearers, sources); the last serves all later rounds

    @classmethod
    def of(
        cls, step: Step, attributes: Attributes, normalisation: Normalisation = "mean"
    ) -> "Graph":
        """The training graph of a step; `attributes` are indexed as the model knows them."""
        return full_graph(Snapshot.of(step, attributes), normalisation)

    @property
    def device(self) -> torch.device:
        """Where the matrices are."""
        return self.inputs.csr.device

    def gather(self, number: int) -> SparseMatrix:
        """The matrix of round `number`, counted from 1 for the one after the first."""
        return self.further[min(number, len(self.further)) - 1]

    def to(self, device: torch.device) -> Self:
        """A copy on `device`."""
        return type(self)(
            self.inputs.to(device),
            self.first.to(device),
            tuple(matrix.to(device) for matrix in self.further),
        )


def full_graph(snapshot: Snapshot, normalisation: Normalisation) -> Graph:
    """Every node, hearing all of its neighbours in every round."""
    everyone = np.arange(snapshot.n_nodes)
    return Graph(
        input_matrix(snapshot, np.arange(1 + snapshot.n_items)),
        first_matrix(snapshot, first_links(snapshot, everyone, normalisation)),
        (gather_matrix(snapshot.links(everyone, normalisation), snapshot.n_nodes),),
    )


def input_matrix(snapshot: Snapshot, distinct: Integers) -> SparseMatrix:
    """(len(distinct), values): what some of the distinct nodes are made of."""
    entries = snapshot.inputs.entries(distinct)
    return SparseMatrix.of(
        _starts(snapshot.inputs.counts(distinct)),
        snapshot.inputs.columns[entries],
        snapshot.input_weights[entries],
        snapshot.n_values,
    )


def first_links(snapshot: Snapshot, hearers: Integers, normalisation: Normalisation) -> Links:
    """All that some nodes hear in the first round, in which all users say the same.

    An item hears one user who counts for all of its users, so that nothing grows with them.
    """
    split = np.searchsorted(hearers, snapshot.n_users)
    by_users = snapshot.links(hearers[:split], normalisation)
    return with_items(snapshot, by_users, hearers[split:], normalisation)


def with_items(
    snapshot: Snapshot, by_users: Links, items: Integers, normalisation: Normalisation
) -> Links:
    """The first round's links of some users, continued by those of some item nodes."""
    counts = np.minimum(snapshot.neighbours.counts(items), 1)
    if normalisation == "mean":
        weights = np.ones(counts.sum(), np.float32)
    else:
        weights = snapshot.reach[items[counts > 0]].astype(np.float32)
    return Links(
        np.concatenate([by_users.hearers, items]),
        np.concatenate([by_users.counts, counts]),
        np.concatenate([by_users.senders, np.zeros(counts.sum(), np.int64)]),
        np.concatenate([by_users.weights, weights]),
    )


def first_matrix(
    snapshot: Snapshot, links: Links, places: Integers | None = None, count: int | None = None
) -> SparseMatrix:
    """(hearers, 2·distinct): all distinct nodes, or `count` of them at the given `places`."""
    senders, own = snapshot.distinct(links.senders), snapshot.distinct(links.hearers)
    if places is not None:
        senders, own = places[senders].astype(np.int64), places[own].astype(np.int64)
    count = 1 + snapshot.n_items if count is None else count
    starts, columns, weights = _with_own(links, 2 * senders, 2 * own + 1)
    return SparseMatrix.of(starts, columns, weights, 2 * count)


def gather_matrix(links: Links, n_sources: int) -> SparseMatrix:
    """(2·hearers, sources); senders and hearers are numbered as the sources are."""
    starts, columns, weights = _with_own(links, links.senders, links.hearers)
    ends = starts[1:]
    return SparseMatrix.of(
        np.concatenate([[0], np.stack([ends - 1, ends], axis=1).ravel()]),
        columns,
        weights,
        n_sources,
    )


def hearers_of(gather: SparseMatrix) -> Tensor:
    """Which source each hearer of a gather matrix is: (hearers,) int64."""
    # The odd rows hold nothing else.
    return gather.csr.col_indices()[gather.csr.crow_indices()[1:-1:2]]


def _with_own(
    links: Links, senders: Integers, own: Integers
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Sparse rows of the links, each with its own column last, which counts 1."""
    starts = _starts(links.counts + 1)
    columns, weights = np.empty(starts[-1], np.int64), np.ones(starts[-1], np.float32)
    last = np.zeros(len(columns), np.bool_)
    last[starts[1:] - 1] = True
    columns[last] = own
    columns[~last] = senders
    weights[~last] = links.weights
    return starts, columns, weights


def _starts(counts: Integers) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)])


def _csr(starts: Tensor, columns: Tensor, weights: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        # torch calls its CSR layout a beta; products with dense matrices are all we use of it.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        # Columns may repeat and come in any order, which products don't mind.
        return torch.sparse_csr_tensor(starts, columns, weights, size=shape, check_invariants=False)
