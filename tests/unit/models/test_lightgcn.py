from dataclasses import replace

import numpy as np
import pytest
import torch

from backstay.datasets.dataset import Attributes
from backstay.models.architectures import build_model
from backstay.models.graph import Graph
from backstay.models.protocol import ModelConfig
from tests.support import dense
from tests.support.snapshots import kind_of, random_snapshot, step_of


def model_of(attributes, *, layers=2, dim=6):
    values = tuple(len(kind.values) for kind in attributes.kinds)
    config = ModelConfig(architecture="lightgcn", dim=dim, layers=layers, values=values)
    return build_model(config, seed=0)


def dense_lightgcn(table, step, attributes, *, layers):
    """The paper's equation 8 with α = 1/(L + 1), by powers of the whole matrix in float64."""
    e = dense.input_matrix(step, attributes) @ table
    a = dense.message_matrix(step, "symmetric")
    return sum(torch.linalg.matrix_power(a, n) @ e for n in range(layers + 1)) / (layers + 1)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_vectors_and_gradients_are_those_of_the_dense_formula(layers):
    step, attributes = random_snapshot(layers)
    attributes = attributes.with_ids()
    model = model_of(attributes, layers=layers)
    table = model.table.detach().double().requires_grad_()
    upstream = torch.randn(step.n_users + step.n_items, 6, dtype=torch.float64)

    z = model(Graph.of(step, attributes, model.normalisation))
    expected = dense_lightgcn(table, step, attributes, layers=layers)
    z.backward(upstream.float())
    expected.backward(upstream)

    torch.testing.assert_close(z.double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.table.grad.double(), table.grad, atol=1e-5, rtol=1e-5)


def test_one_edge_between_two_nodes_has_a_known_answer():
    attributes = Attributes((kind_of("genre", [[0]], values=1),))
    model = model_of(attributes, dim=1, layers=3)
    with torch.no_grad():
        model.table.copy_(torch.tensor([[8.0], [4.0]]))  # the user, then the genre
    z = model(Graph.of(step_of([(0, 0)], n_users=1, n_items=1), attributes, model.normalisation))
    assert z.tolist() == [[(8 + 4 + 8 + 4) / 4], [(4 + 8 + 4 + 8) / 4]]


def test_an_item_of_which_nothing_is_known_gets_the_zero_vector():
    attributes = Attributes((kind_of("genre", [[0], []], values=1),))
    model = model_of(attributes)
    z = model(Graph.of(step_of([(0, 0)], n_users=1, n_items=2), attributes, model.normalisation))
    assert z[:-1].count_nonzero() == z[:-1].numel()
    assert z[-1].count_nonzero() == 0


def test_items_alike_in_all_but_their_id_differ_by_it():
    step, attributes = step_of([(0, 0), (0, 1)], n_users=1, n_items=3), random_snapshot()[1]
    alike = Attributes((kind_of("genre", [[0]] * 3, values=1),), attributes.item_ids[:3])
    known = alike.with_ids()
    vocabulary = known.vocabulary(items=2)  # the third is new
    assert vocabulary["item"] == ("item-0", "item-1")
    known = known.reindexed(vocabulary)
    model = model_of(known)
    z = model(Graph.of(step, known, model.normalisation))
    assert (z[1] != z[2]).any()
    new = model.table[1] / 3  # its genre alone
    torch.testing.assert_close(z[3], new)


def test_vectors_begin_as_small_as_the_papers():
    attributes = Attributes((kind_of("genre", [[n] for n in range(500)], values=500),))
    table = model_of(attributes, dim=64).table.detach().numpy()
    assert table.std() == pytest.approx(0.1, rel=0.02)


def test_more_edges_elsewhere_change_what_a_neighbour_counts():
    step, attributes = random_snapshot()
    model = model_of(attributes, layers=1)
    more = replace(step, train=step_of([(0, 0), (1, 0)], n_users=12, n_items=9).train)
    less = replace(step, train=step_of([(0, 0)], n_users=12, n_items=9).train)
    one, two = (
        model(Graph.of(s, attributes, model.normalisation))[0].detach() for s in (less, more)
    )
    e = dense.input_matrix(step, attributes) @ model.table.detach().double()
    np.testing.assert_allclose(two - one, e[12] / 2 * (0.5**0.5 - 1), atol=1e-6)
