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
    config = ModelConfig(architecture="factorisation", dim=dim, layers=layers, values=values)
    return build_model(config, seed=0)


def slow_factorisation(table, step, attributes):
    """Node by node and item by item, in float64."""
    items = dense.input_matrix(step, attributes)[step.n_users :]
    second, first = items @ table[:, 0], items @ table[:, 1]
    users = []
    for taken in dense.neighbours_of(step)[: step.n_users]:
        vector = table[0, 1].clone()
        for node in taken:
            vector += second[node - step.n_users] / len(taken)
        users.append(vector)
    return torch.cat([torch.stack(users), first])


@pytest.mark.parametrize("seed", range(3))
def test_vectors_and_gradients_are_those_of_the_slow_loop(seed):
    step, attributes = random_snapshot(seed)
    attributes = attributes.with_ids()
    model = model_of(attributes)
    table = model.table.detach().double().requires_grad_()
    upstream = torch.randn(step.n_users + step.n_items, 6, dtype=torch.float64)

    z = model(Graph.of(step, attributes))
    expected = slow_factorisation(table, step, attributes)
    z.backward(upstream.float())
    expected.backward(upstream)

    torch.testing.assert_close(z.double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.table.grad.double(), table.grad, atol=1e-5, rtol=1e-5)


def test_two_items_and_a_user_have_a_known_answer():
    attributes = Attributes((kind_of("item", [[0], [1], []], values=2),))
    model = model_of(attributes, dim=1)
    with torch.no_grad():  # second factor, first factor
        model.table.copy_(torch.tensor([[99.0, 1.0], [2.0, 10.0], [4.0, 20.0]])[..., None])
    step = step_of([(0, 0), (0, 1), (1, 1)], n_users=3, n_items=3)
    z = model(Graph.of(step, attributes))
    assert z.flatten().tolist() == [1 + 3, 1 + 4, 1, 10, 20, 0]


def test_an_item_is_the_same_whoever_took_it():
    attributes = random_snapshot()[1].with_ids()
    model = model_of(attributes)
    few, many = (random_snapshot(seed, edges=edges)[0] for seed, edges in ((0, 5), (1, 80)))
    torch.testing.assert_close(
        model(Graph.of(few, attributes))[few.n_users :],
        model(Graph.of(many, attributes))[many.n_users :],
        atol=0,
        rtol=0,
    )


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_it_has_one_layer_whatever_the_configuration(layers):
    step, attributes = random_snapshot()
    one, other = (model_of(attributes, layers=n) for n in (1, layers))
    graph = Graph.of(step, attributes)
    assert other.n_layers == 1
    torch.testing.assert_close(one(graph), other(graph), atol=0, rtol=0)
