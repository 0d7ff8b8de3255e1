import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.datasets.dataset import Attributes
from backstay.models.graph import Graph, SparseMatrix, dst_of, full_graph
from backstay.models.snapshot import Snapshot
from tests.support import dense
from tests.support.snapshots import kind_of, random_snapshot, step_of

NORMALISATIONS = pytest.mark.parametrize("normalisation", ["mean", "symmetric"])


@st.composite
def sparse_rows(draw):
    """Starts, columns and weights of a matrix, its width, and the same matrix dense."""
    width = draw(st.integers(1, 6))
    cell = st.tuples(st.integers(0, width - 1), st.floats(-2, 2, width=32))
    rows = draw(st.lists(st.lists(cell, max_size=5), max_size=6))
    full = torch.zeros(len(rows), width, dtype=torch.float64)
    for number, row in enumerate(rows):
        for column, weight in row:
            full[number, column] += weight
    cells = [cell for row in rows for cell in row]
    return (
        np.cumsum([0, *map(len, rows)]),
        np.array([column for column, _ in cells], np.int32),
        np.array([weight for _, weight in cells]),
        width,
    ), full


@given(sparse_rows(), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_product_and_its_gradient_are_those_of_the_dense_matrix(matrices, width):
    rows, full = matrices
    matrix = SparseMatrix.of(*rows)
    assert matrix.shape == full.shape
    x = torch.randn(full.shape[1], width, generator=torch.Generator().manual_seed(0))
    upstream = torch.randn(full.shape[0], width, generator=torch.Generator().manual_seed(1))
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()

    product, expected = matrix @ ours, full @ theirs
    product.backward(upstream)
    expected.backward(upstream.double())

    torch.testing.assert_close(product.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-5, rtol=1e-5)


def swap():
    return SparseMatrix.of(np.array([0, 1, 2]), np.array([1, 0]), np.array([2.0, 3.0]), 2)


def test_a_gradient_that_is_not_contiguous_is_taken_as_it_is():
    x = torch.ones(2, 4, requires_grad=True)
    upstream = torch.arange(8.0).view(4, 2).T
    (swap() @ x).backward(upstream)
    torch.testing.assert_close(x.grad, torch.stack([3 * upstream[1], 2 * upstream[0]]))


def test_the_transpose_is_made_once_and_only_for_a_gradient():
    matrix = swap()
    matrix @ torch.ones(2, 1)
    assert "transposed" not in vars(matrix)
    x = torch.ones(2, 1, requires_grad=True)
    (matrix @ x).sum().backward()
    first = matrix.transposed
    (matrix @ x).sum().backward()
    assert matrix.transposed is first


def test_what_memory_held_before_does_not_reach_a_product():
    matrix = SparseMatrix.of(np.array([0, 0]), np.zeros(0, np.int64), np.zeros(0), 3)
    for _ in range(20):
        torch.full((1, 512), torch.nan)  # freed at once: the product is likely to be given it
        assert (matrix @ torch.ones(3, 512)).count_nonzero() == 0


@NORMALISATIONS
@pytest.mark.parametrize("seed", range(3))
def test_a_gather_gives_the_messages_to_each_node_and_the_node_itself(seed, normalisation):
    step, attributes = random_snapshot(seed)
    h = torch.randn(step.n_users + step.n_items, 4)
    gather = Graph.of(step, attributes, normalisation).gather(1)
    pairs = (gather @ h).view(-1, 2, 4)
    messages = dense.message_matrix(step, normalisation) @ h.double()
    torch.testing.assert_close(pairs[:, 0], messages.float())
    torch.testing.assert_close(pairs[:, 1], h, atol=0, rtol=0)
    assert dst_of(gather).tolist() == list(range(len(h)))


@NORMALISATIONS
@pytest.mark.parametrize("seed", range(3))
def test_in_the_first_layer_all_users_share_one_message(seed, normalisation):
    step, attributes = random_snapshot(seed)
    offers = torch.randn(1 + step.n_items, 2, 4)
    sent, kept = torch.cat([offers[:1].expand(step.n_users, -1, -1), offers[1:]]).unbind(1)
    expected = dense.message_matrix(step, normalisation) @ sent.double() + kept
    found = Graph.of(step, attributes, normalisation).first @ offers.view(-1, 4)
    torch.testing.assert_close(found, expected.float())


@pytest.mark.parametrize("seed", range(3))
def test_inputs_are_those_of_the_distinct_nodes(seed):
    step, attributes = random_snapshot(seed)
    inputs = Graph.of(step, attributes).inputs
    expected = dense.input_matrix(step, attributes)[step.n_users - 1 :]
    torch.testing.assert_close(inputs.csr.to_dense().double(), expected)


def test_inputs_average_the_values_of_each_kind_and_sum_the_kinds():
    kinds = kind_of("genre", [[0, 2], [], [1]], values=3), kind_of("year", [[1], [0], []], values=2)
    graph = Graph.of(step_of([(0, 0)], n_users=1, n_items=3), Attributes(kinds))
    table = torch.tensor([[7.0], [1.0], [10.0], [100.0], [0.5], [0.25]])  # user, genres, years
    assert (graph.inputs @ table).tolist() == [[7.0], [50.5 + 0.25], [0.5], [10.0]]


def test_an_edge_that_is_there_twice_counts_twice():
    step = step_of([(0, 0), (0, 0), (0, 1)], n_users=1, n_items=2)
    gather = Graph.of(step, Attributes(())).gather(1)
    h = torch.tensor([[0.0], [3.0], [9.0]])
    assert (gather @ h).view(-1, 2)[0].tolist() == [5.0, 0.0]


def test_nodes_without_edges_receive_no_messages_and_keep_their_own():
    graph = Graph.of(step_of([], n_users=1, n_items=1), Attributes(()), "symmetric")
    offers = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    assert (graph.first @ offers).tolist() == [[2.0], [4.0]]
    assert (graph.gather(1) @ torch.tensor([[5.0], [6.0]])).tolist() == [[0.0], [5.0], [0.0], [6.0]]


def test_a_full_graph_has_one_matrix_for_all_further_layers():
    graph = full_graph(Snapshot.of(*random_snapshot()), "mean")
    assert graph.gather(1) is graph.gather(2) is graph.gather(9)


def test_a_copy_on_a_device_has_that_device():
    graph = Graph.of(*random_snapshot()).to(torch.device("cpu"))
    assert graph.device == torch.device("cpu")
    assert graph.first.shape == (12 + 9, 2 * (1 + 9))
    assert graph.gather(1).shape == (2 * (12 + 9), 12 + 9)
