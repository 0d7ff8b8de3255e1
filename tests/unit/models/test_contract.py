"""What the loop asks of every embedding model, whatever its architecture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.models.snapshots import edges_of, random_snapshot

from backstay.errors import CorruptError, UsageError
from backstay.models.architectures import ARCHITECTURES, build_model, load_model, model_weights
from backstay.models.graph import Graph
from backstay.models.protocol import EmbeddingModel, ModelConfig


@pytest.fixture(params=sorted(ARCHITECTURES))
def config(request):
    return ModelConfig(architecture=request.param, dim=6, layers=2, values=(5, 7))


@pytest.fixture
def snapshot():
    return random_snapshot()


def trained(config, graph):
    """A model that has taken a few steps, so that no part of its state is at its start."""
    model = build_model(config, seed=0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        (model(graph) * torch.arange(6.0)).square().sum().backward()
        optimiser.step()
    return model.eval()


def test_every_node_gets_a_finite_vector_and_every_weight_a_gradient(config, snapshot):
    model = build_model(config, seed=0)
    assert isinstance(model, EmbeddingModel)
    z = model(Graph.of(*snapshot))
    assert z.shape == (12 + 9, config.dim)
    assert z.dtype == torch.float32
    assert z.isfinite().all()
    (z * torch.arange(6.0)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_users_and_items_never_seen_get_vectors_too(config, snapshot):
    step, attributes = snapshot
    model = trained(config, Graph.of(step, attributes))
    later, later_attributes = random_snapshot(1, n_users=30, n_items=20, edges=90)
    z = model(Graph.of(later, later_attributes))
    assert z.shape == (50, config.dim)
    assert z.isfinite().all()


def test_nodes_alike_get_the_same_vector(config, snapshot):
    step, attributes = snapshot
    wider = replace(step, n_users=step.n_users + 2)
    users = trained(config, Graph.of(step, attributes))(Graph.of(wider, attributes))[
        : wider.n_users
    ]
    torch.testing.assert_close(users[-1], users[-2], atol=0, rtol=0)


def test_the_order_of_edges_does_not_matter(config, snapshot):
    step, attributes = snapshot
    order = np.random.default_rng(0).permutation(len(step.train))
    shuffled = edges_of(np.stack([step.train.users, step.train.items], axis=1)[order])
    model = trained(config, Graph.of(step, attributes))
    torch.testing.assert_close(
        model(Graph.of(step, attributes)),
        model(Graph.of(replace(step, train=shuffled), attributes)),
        atol=0,
        rtol=0,
    )


def test_renumbering_users_renumbers_their_vectors(config, snapshot):
    step, attributes = snapshot
    order = np.random.default_rng(0).permutation(step.n_users)
    renumbered = edges_of(np.stack([order[step.train.users], step.train.items], axis=1))
    model = trained(config, Graph.of(step, attributes))
    users = model(Graph.of(step, attributes))[: step.n_users]
    moved = model(Graph.of(replace(step, train=renumbered), attributes))
    torch.testing.assert_close(moved[torch.from_numpy(order)], users)


def test_a_stored_model_gives_the_same_vectors(config, snapshot):
    graph = Graph.of(*snapshot)
    model = trained(config, graph)
    stored = {name: value.copy() for name, value in model_weights(model).items()}
    for value in stored.values():
        value.setflags(write=False)
    loaded = load_model(config.to_dict(), stored)
    assert not loaded.training
    assert loaded.config == config
    torch.testing.assert_close(loaded(graph), model(graph), atol=0, rtol=0)


def test_a_seed_decides_the_weights_and_the_global_generator_neither_way(config):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = model_weights(build_model(config, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = model_weights(build_model(config, seed=3))
    other = model_weights(build_model(config, seed=4))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert any((value != other[name]).any() for name, value in first.items())


def test_weights_of_another_shape_are_refused(config, snapshot):
    model = trained(config, Graph.of(*snapshot))
    with pytest.raises(CorruptError, match="don't fit"):
        load_model(replace(config, dim=5).to_dict(), model_weights(model))


def test_a_configuration_survives_json(config):
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("field", ["dim", "layers"])
def test_a_size_below_one_is_refused(field):
    with pytest.raises(UsageError, match=f"{field} must be at least 1, found 0"):
        ModelConfig(**{field: 0})


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'transformer'; expected one of .*pinsage"):
        build_model(ModelConfig(architecture="transformer"), seed=0)
