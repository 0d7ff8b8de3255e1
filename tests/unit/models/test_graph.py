import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.models.snapshots import kind_of, random_snapshot, step_of

from backstay.datasets.dataset import Attributes
from backstay.models.graph import Graph, SparseMatrix


def dense_of(rows, columns, weights, shape):
    dense = torch.zeros(shape, dtype=torch.float64)
    for row, column, weight in zip(rows, columns, weights, strict=True):
        dense[row, column] += weight
    return dense


@st.composite
def coordinates(draw):
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    cell = st.tuples(
        st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1), st.floats(-2, 2, width=32)
    )
    cells = draw(st.lists(cell, max_size=20))
    rows, columns, weights = (
        (list(part) for part in zip(*cells, strict=True)) if cells else [[]] * 3
    )
    return np.array(rows, np.int32), np.array(columns, np.int64), np.array(weights), shape


@given(coordinates(), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_product_and_its_gradient_are_those_of_the_dense_matrix(cells, width):
    matrix, dense = SparseMatrix.of(*cells), dense_of(*cells)
    x = torch.randn(cells[3][1], width, generator=torch.Generator().manual_seed(0))
    upstream = torch.randn(cells[3][0], width, generator=torch.Generator().manual_seed(1))
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()

    product, expected = matrix @ ours, dense @ theirs
    product.backward(upstream)
    expected.backward(upstream.double())

    torch.testing.assert_close(product.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-5, rtol=1e-5)


def test_a_gradient_that_is_not_contiguous_is_taken_as_it_is():
    matrix = SparseMatrix.of(np.array([0, 1]), np.array([1, 0]), np.array([2.0, 3.0]), (2, 2))
    x = torch.ones(2, 4, requires_grad=True)
    upstream = torch.arange(8.0).view(4, 2).T
    (matrix @ x).backward(upstream)
    torch.testing.assert_close(x.grad, torch.stack([3 * upstream[1], 2 * upstream[0]]))


def slow_exchange(step, sent, kept):
    """Per node: the mean over the neighbours of what they send, plus what the node keeps."""
    linked = [[] for _ in range(step.n_users + step.n_items)]
    for user, item in zip(step.train.users.tolist(), step.train.items.tolist(), strict=True):
        linked[user].append(step.n_users + item)
        linked[step.n_users + item].append(user)
    rows = []
    for node, neighbours in enumerate(linked):
        row = kept[node].clone()
        for neighbour in neighbours:
            row += sent[neighbour] / len(neighbours)
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("seed", range(3))
def test_an_exchange_averages_over_neighbours_and_adds_what_a_node_keeps(seed):
    step, attributes = random_snapshot(seed)
    sent, kept = torch.randn(2, step.n_users + step.n_items, 4)
    offers = torch.stack([sent, kept], dim=1).view(-1, 4)
    torch.testing.assert_close(
        Graph.of(step, attributes).exchange @ offers, slow_exchange(step, sent, kept)
    )


def test_the_first_exchange_is_an_exchange_in_which_all_users_are_one():
    step, attributes = random_snapshot()
    distinct = torch.randn(1 + step.n_items, 2, 4)
    everyone = torch.cat([distinct[:1].expand(step.n_users, -1, -1), distinct[1:]])
    graph = Graph.of(step, attributes)
    torch.testing.assert_close(
        graph.first_exchange @ distinct.view(-1, 4),
        graph.exchange @ everyone.reshape(-1, 4),
    )


def test_inputs_average_the_values_of_each_kind_and_sum_the_kinds():
    kinds = kind_of("genre", [[0, 2], [], [1]], values=3), kind_of("year", [[1], [0], []], values=2)
    graph = Graph.of(step_of([(0, 0)], n_users=1, n_items=3), Attributes(kinds))
    table = torch.tensor([[7.0], [1.0], [10.0], [100.0], [0.5], [0.25]])  # user, genres, years
    assert (graph.inputs @ table).tolist() == [[7.0], [50.5 + 0.25], [0.5], [10.0]]


def test_items_beyond_the_step_are_left_out():
    kinds = (kind_of("genre", [[0], [1], [0, 1]], values=2),)
    graph = Graph.of(step_of([(0, 0)], n_users=1, n_items=2), Attributes(kinds))
    assert graph.inputs.csr.shape == (3, 3)
    assert graph.exchange.csr.shape == (3, 6)


def test_a_copy_on_a_device_says_where_it_is():
    graph = Graph.of(*random_snapshot()).to(torch.device("cpu"))
    assert graph.device == torch.device("cpu")
    assert (graph.n_users, graph.n_items) == (12, 9)
