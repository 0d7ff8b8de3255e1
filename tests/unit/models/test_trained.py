"""Models as plain arrays, and models that are built onto one another."""

import numpy as np
import pytest

from backstay.errors import CorruptError
from backstay.models.architectures import build_model, model_weights
from backstay.models.inference import embed
from backstay.models.protocol import ModelConfig
from backstay.models.snapshot import Snapshot
from backstay.models.trained import TrainedModel
from backstay.registry.tensors import StoredModel, decode_model, encode_model
from tests.support.snapshots import random_snapshot

STEP, ATTRIBUTES = random_snapshot()
NODES = STEP.n_users + STEP.n_items


def trained(dim, base=None, *, seed=0, architecture="pinsage", attributes=ATTRIBUTES):
    vocabulary = attributes.vocabulary(items=STEP.n_items)
    config = ModelConfig(
        architecture=architecture,
        dim=dim,
        values=tuple(len(values) for values in vocabulary.values()),
    )
    weights = {n: np.array(w) for n, w in model_weights(build_model(config, seed=seed)).items()}
    if base is None:
        return TrainedModel(config, weights, vocabulary)
    size = base.dim + dim
    basis = np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)
    return TrainedModel(config, weights, vocabulary, base, basis)


def tower():
    """Three levels; the middle one is of another architecture and knows the items themselves."""
    middle = trained(
        2, trained(5), seed=1, architecture="lightgcn", attributes=ATTRIBUTES.with_ids()
    )
    return trained(3, middle, seed=2)


def own(model):
    snapshot = Snapshot.of(STEP, ATTRIBUTES.reindexed(model.vocabulary))
    return embed(model.load(), snapshot).numpy()


def test_a_plain_model_embeds_as_its_network_does():
    model = trained(5)
    assert model.dim == 5
    np.testing.assert_array_equal(model.embed(STEP, ATTRIBUTES), own(model))


def test_a_model_built_onto_others_puts_their_vectors_beside_its_own_in_its_basis():
    model = tower()
    assert (model.dim, model.base.dim, model.base.base.dim) == (10, 7, 5)
    expected = own(model.base.base).astype(np.float64)
    for level in (model.base, model):
        joined = np.concatenate([expected, own(level)], axis=1)
        expected = np.stack([level.basis.astype(np.float64) @ row for row in joined])
    found = model.embed(STEP, ATTRIBUTES)
    assert found.shape == (NODES, 10)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def stored(model):
    """As a registry gives it back."""
    return decode_model(encode_model(StoredModel(*model.to_parts())), path="model.safetensors")


@pytest.mark.parametrize(
    "model", [trained(5), trained(3, trained(5), seed=1), tower()], ids=["plain", "two", "three"]
)
def test_a_stored_model_is_the_same_model(model):
    parts = stored(model)
    back = TrainedModel.from_parts(parts.config, parts.weights, parts.vocabulary)
    np.testing.assert_array_equal(back.embed(STEP, ATTRIBUTES), model.embed(STEP, ATTRIBUTES))
    while model is not None:
        assert (back.config, back.dim) == (model.config, model.dim)
        assert back.vocabulary == model.vocabulary
        assert set(back.weights) == set(model.weights)
        assert (back.base is None) == (model.base is None)
        model, back = model.base, back.base


def test_a_plain_model_is_stored_as_it_always_was():
    model = trained(5)
    config, weights, vocabulary = model.to_parts()
    assert config == model.config.to_dict()
    assert (weights, vocabulary) == (model.weights, model.vocabulary)


def test_a_model_without_its_basis_is_refused():
    config, weights, vocabulary = tower().to_parts()
    for name in ("basis", "base/basis"):
        lacking = {key: value for key, value in weights.items() if key != name}
        with pytest.raises(CorruptError, match="expected a basis"):
            TrainedModel.from_parts(config, lacking, vocabulary)
