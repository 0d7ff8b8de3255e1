import numpy as np
import pytest
import torch

from backstay.models.architectures import build_model, model_weights
from backstay.models.graph import Graph
from backstay.models.protocol import ModelConfig
from tests.support import dense
from tests.support.snapshots import random_snapshot


def slow_pinsage(weights, step, attributes, *, layers, training):
    """The formula of the paper, by dense matrices in float64: (N, D)."""
    z = dense.input_matrix(step, attributes).numpy() @ weights["table"].astype(np.float64)
    messages = dense.message_matrix(step, "mean").numpy()
    dim = z.shape[1]
    for layer in range(layers):
        both = weights[f"layers.{layer}.weight"].astype(np.float64)
        from_neighbours, from_self = both[:dim], both[dim:]
        h = messages @ z @ from_neighbours.T + z @ from_self.T
        norm = {
            name: weights[f"norms.{layer}.{name}"].astype(np.float64)
            for name in ("weight", "bias", "running_mean", "running_var")
        }
        mean, variance = (
            (h.mean(0), h.var(0)) if training else (norm["running_mean"], norm["running_var"])
        )
        z = (h - mean) / np.sqrt(variance + 1e-5) * norm["weight"] + norm["bias"]
        if layer < layers - 1:
            z = np.maximum(z, 0)
    return z


def randomised(config, *, seed):
    """A model whose batch norms are not at their start either."""
    model = build_model(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for norm in model.norms:
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
            tensor.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    return model


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("values", [(5, 7), (50, 70)])  # more nodes than values, and fewer
def test_vectors_are_those_of_the_formula(layers, training, values):
    step, attributes = random_snapshot(layers, values=values)
    model = randomised(ModelConfig(dim=6, layers=layers, values=values), seed=layers)
    weights = {name: value.copy() for name, value in model_weights(model).items()}
    model.train(training)
    z = model(Graph.of(step, attributes)).detach().numpy()
    expected = slow_pinsage(weights, step, attributes, layers=layers, training=training)
    np.testing.assert_allclose(z, expected, atol=2e-5, rtol=1e-5)


def test_gradients_are_those_of_finite_differences():
    step, attributes = random_snapshot(4)
    config = ModelConfig(dim=4, layers=2, values=(5, 7))
    model = randomised(config, seed=4).train()
    upstream = np.random.default_rng(0).standard_normal((step.n_users + step.n_items, 4))
    (model(Graph.of(step, attributes)) * torch.from_numpy(upstream)).sum().backward()
    weights = {name: value.astype(np.float64) for name, value in model_weights(model).items()}

    def loss():
        return (slow_pinsage(weights, step, attributes, layers=2, training=True) * upstream).sum()

    for name, cell in (
        ("table", (0, 1)),  # the vector of all users
        ("table", (3, 2)),
        ("layers.0.weight", (1, 2)),  # from neighbours
        ("layers.0.weight", (5, 2)),  # from the node itself
        ("layers.1.weight", (2, 0)),
        ("layers.1.weight", (7, 3)),
        ("norms.0.bias", (1,)),
    ):
        at = weights[name][cell]
        weights[name][cell] = at + 1e-6
        above = loss()
        weights[name][cell] = at - 1e-6
        below = loss()
        weights[name][cell] = at
        found = model.get_parameter(name).grad[cell].item()
        assert found == pytest.approx((above - below) / 2e-6, rel=2e-3, abs=2e-4), name
