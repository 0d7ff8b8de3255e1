"""What a version takes over from the one before."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from backstay.datasets.csr import Csr
from backstay.models.architectures import ARCHITECTURES, build_model, model_weights
from backstay.models.inference import embed
from backstay.models.protocol import ModelConfig
from backstay.models.snapshot import Snapshot
from backstay.training.config import FitConfig
from backstay.training.fit import fit
from backstay.training.learner import Networks
from backstay.training.warm_start import inherit, keep_first
from tests.support.snapshots import random_snapshot

STEP, RAW = random_snapshot()
DIM = 6


def known_to(architecture):
    return RAW.with_ids() if ARCHITECTURES[architecture].uses_item_ids else RAW


def vocabulary_of(attributes):
    return attributes.vocabulary(items=STEP.n_items)


def model_of(vocabulary, *, architecture="pinsage", dim=DIM, layers=2, seed=0):
    values = tuple(len(values) for values in vocabulary.values())
    config = ModelConfig(architecture=architecture, dim=dim, layers=layers, values=values)
    return build_model(config, seed=seed)


def snapshot_as(attributes, vocabulary):
    return Snapshot.of(STEP, attributes.reindexed(vocabulary))


def trained(architecture, **options):
    """An older model that has learned a little, with its vocabulary."""
    attributes = known_to(architecture)
    vocabulary = vocabulary_of(attributes)
    model = model_of(vocabulary, architecture=architecture, **options)
    config = FitConfig(epochs=3, batch_size=16, learning_rate=0.05)
    fit(snapshot_as(attributes, vocabulary), Networks(model=model), config)
    return model, vocabulary


def other_order(vocabulary):
    """The same values backwards, with new ones among them, and a kind that is new."""
    found = {"new kind": ("a", "b")}
    for kind, values in vocabulary.items():
        found[kind] = ("new first", *reversed(values), "new last")
    return found


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request):
    return request.param


def test_a_wider_model_begins_with_the_vectors_of_the_older_one(architecture):
    older, known = trained(architecture)
    model = model_of(known, architecture=architecture, dim=DIM + 3, seed=1)
    assert inherit(model, older, vocabulary=known, older_vocabulary=known)
    snapshot = snapshot_as(known_to(architecture), known)
    z, expected = embed(model, snapshot), embed(older, snapshot)
    torch.testing.assert_close(z[:, :DIM], expected, atol=1e-5, rtol=1e-5)
    assert expected.abs().mean() > 0.01
    assert z[:, DIM:].abs().sum(1).count_nonzero() > len(z) / 2


def test_values_are_found_by_name_wherever_they_are(architecture):
    older, known = trained(architecture)
    now = other_order(known)
    attributes = known_to(architecture)
    model = model_of(now, architecture=architecture, dim=DIM + 3, seed=1)
    assert inherit(model, older, vocabulary=now, older_vocabulary=known)
    kinds = {kind.name: kind for kind in attributes.kinds}
    names = ["a user", *(value for values in now.values() for value in values)]
    new = torch.tensor([name in {"a", "b", "new first", "new last"} for name in names])
    assert not model.table[new][..., :DIM].any(), "what is new adds nothing to what was known"
    assert model.table[new][..., DIM:].all()
    empty = replace(
        attributes.kinds[0],
        name="new kind",
        values=("a", "b"),
        rows=Csr(np.zeros(STEP.n_items + 1, np.int64), np.zeros(0, np.int32)),
    )
    rows = {
        name: np.array([now[name].index(value) for value in known[name]], np.int32)
        for name in known
    }
    reindexed = attributes.reindexed(known)
    listed = [empty] + [
        replace(
            kind,
            values=now[kind.name],
            rows=Csr(kind.rows.starts, rows[kind.name][kind.rows.columns]),
        )
        for kind in reindexed.kinds
    ]
    assert set(kinds) == set(known)
    z = embed(model, Snapshot.of(STEP, replace(reindexed, kinds=tuple(listed))))
    expected = embed(older, snapshot_as(attributes, known))
    torch.testing.assert_close(z[:, :DIM], expected, atol=1e-5, rtol=1e-5)


def test_values_that_are_gone_leave_no_trace(architecture):
    older, known = trained(architecture)
    fewer = {kind: values[1:] for kind, values in known.items()}
    model = model_of(fewer, architecture=architecture, seed=1)
    assert inherit(model, older, vocabulary=fewer, older_vocabulary=known)
    offsets = np.cumsum([1, *(len(values) for values in known.values())])
    dropped = torch.tensor([offsets[n] for n in range(len(known))])
    left = torch.ones(len(older.table), dtype=torch.bool)
    left[dropped] = False
    assert torch.equal(model.table, older.table[left])


@pytest.mark.parametrize("layers", [(2, 3), (2, 4), (3, 4)])
def test_a_deeper_pinsage_starts_with_the_older_vectors(layers):
    older, known = trained("pinsage", layers=layers[0])
    model = model_of(known, dim=DIM + 3, layers=layers[1], seed=1)
    assert inherit(model, older, vocabulary=known, older_vocabulary=known)
    snapshot = snapshot_as(RAW, known)
    z, expected = embed(model, snapshot), embed(older, snapshot)
    torch.testing.assert_close(z[:, :DIM], expected, atol=1e-3, rtol=1e-3)


IMPOSSIBLE = {
    "narrower": ("pinsage", {"dim": DIM - 1}),
    "shallower": ("pinsage", {"layers": 1}),
    "of another architecture": ("pinsage", {"architecture": "factorisation"}),
    "deeper, of another mean": ("lightgcn", {"layers": 3}),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_warm_start_returns_false_and_changes_nothing(case):
    kind, options = IMPOSSIBLE[case]
    older, known = trained(kind)
    model = model_of(known, **({"architecture": kind, "seed": 1} | options))
    before = {name: value.copy() for name, value in model_weights(model).items()}
    assert not inherit(model, older, vocabulary=known, older_vocabulary=known)
    for name, value in model_weights(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_layer_behind_the_only_one_is_impossible():
    """There is no ReLU whose outputs an identity could hand on."""
    older, known = trained("pinsage", layers=1)
    model = model_of(known, layers=2, seed=1)
    before = {name: value.copy() for name, value in model_weights(model).items()}
    assert not inherit(model, older, vocabulary=known, older_vocabulary=known)
    for name, value in model_weights(model).items():
        np.testing.assert_array_equal(value, before[name])


# The batch norm of a layer that hands on


SCALES = torch.tensor([1.0, 0.3, -0.7, 2.0, 0.5])
SHIFTS = torch.tensor([0.0, 0.5, 0.2, -1.0, -0.4])


def restored(scales=SCALES, shifts=SHIFTS):
    """The batch norm of a layer inserted behind one whose batch norm has these parameters."""
    vocabulary = vocabulary_of(RAW)
    older = model_of(vocabulary, dim=len(scales), layers=2)
    with torch.no_grad():
        older.norm(0).weight.copy_(scales)
        older.norm(0).bias.copy_(shifts)
    model = model_of(vocabulary, dim=len(scales) + 2, layers=3, seed=1)
    assert inherit(model, older, vocabulary=vocabulary, older_vocabulary=vocabulary)
    return model.norm(1)


def test_its_moments_are_those_of_a_rectified_normal():
    """By numeric integration."""
    norm = restored()
    grid = np.linspace(-12, 12, 200_001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi) * (grid[1] - grid[0])
    for place, (scale, shift) in enumerate(zip(SCALES.tolist(), SHIFTS.tolist(), strict=True)):
        values = np.maximum(shift + scale * grid, 0)
        mean = (values * density).sum()
        variance = (values**2 * density).sum() - mean**2
        assert norm.running_mean[place].item() == pytest.approx(mean, abs=1e-6)
        assert norm.running_var[place].item() == pytest.approx(variance, rel=1e-4)
        assert norm.bias[place].item() == pytest.approx(mean, abs=1e-6)
        assert norm.weight[place].item() == pytest.approx(variance**0.5, rel=1e-4)


def test_it_changes_nothing_in_evaluation_whatever_it_gets():
    x = torch.rand(50, 5, generator=torch.Generator().manual_seed(0)) * 3
    z = restored().eval()(nn.functional.pad(x, (0, 2)))[:, :5]
    torch.testing.assert_close(z, x, atol=1e-3, rtol=1e-3)


def test_it_changes_little_in_training_where_activations_are_normal():
    generator = torch.Generator().manual_seed(0)
    x = torch.relu(SHIFTS + SCALES * torch.randn(200_000, 5, generator=generator))
    z = restored().train()(nn.functional.pad(x, (0, 2)))[:, :5]
    torch.testing.assert_close(z, x, atol=0.03, rtol=0.03)


def test_units_that_never_fire_get_finite_statistics():
    norm = restored(torch.tensor([0.0, 0.1]), torch.tensor([0.5, -9.0]))
    assert all(value.isfinite().all() for value in norm.state_dict().values())
    assert norm.bias[:2].tolist() == pytest.approx([0.5, 0.0])


# The map


def test_a_map_back_to_what_was_inherited_begins_as_the_first_dimensions():
    backward = nn.Linear(5, 3, bias=False)
    keep_first(backward)
    z = torch.randn(4, 5)
    assert torch.equal(backward(z), z[:, :3])
    assert backward.weight.requires_grad
