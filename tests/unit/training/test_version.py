"""One version from arrays to arrays, by every method of the table."""

import numpy as np
import pytest
import torch

from backstay.compat.methods import METHODS
from backstay.datasets.dataset import Dataset
from backstay.datasets.marketplace import generate
from backstay.datasets.marketplace_config import MarketplaceConfig
from backstay.datasets.timeline import steps
from backstay.training.fit import FitConfig
from backstay.training.version import Predecessor, VersionPlan, fit_version

FIT = FitConfig(epochs=4, evaluate_every=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("market") / "dataset"
    generate(MarketplaceConfig(interactions=3_000), out)
    opened = Dataset.open(out)
    interactions = opened.interactions()
    return steps(interactions), opened.attributes(interactions.item_ids)


def plan(method, dim):
    return VersionPlan(method=METHODS[method], dim=dim, layers=2, fit=FIT, map_epochs=3)


@pytest.fixture(scope="module")
def first(world):
    timeline, attributes = world
    return fit_version(timeline[0], attributes, plan("no-bc", 8), previous=None, score=None)


def test_version_0_is_the_same_for_every_method_and_has_no_map(world, first):
    timeline, attributes = world
    for method in METHODS:
        again = fit_version(timeline[0], attributes, plan(method, 8), previous=None, score=None)
        assert again.matrix is None
        for name, value in first.model.weights.items():
            np.testing.assert_array_equal(again.model.weights[name], value)


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("fix-m0", (8, 8)),
        ("no-bc", None),
        ("posthoc-linear-single", (8, 12)),
        ("bc-aligner", (8, 12)),
    ],
)
def test_a_later_version_has_the_map_of_its_method(world, first, method, shape):
    timeline, attributes = world
    previous = Predecessor(first.model, ())
    second = fit_version(timeline[1], attributes, plan(method, 12), previous=previous, score=None)
    assert (second.matrix.shape if second.matrix is not None else None) == shape
    nodes = timeline[1].n_users + timeline[1].n_items
    dim = 8 if method == "fix-m0" else 12
    assert second.model.embed(timeline[1], attributes).shape == (nodes, dim)


def test_a_finished_model_handed_in_only_gets_its_map(world, first):
    timeline, attributes = world
    previous = Predecessor(first.model, ())
    plain = fit_version(timeline[1], attributes, plan("no-bc", 12), previous=None, score=None)
    whole, mapped = (
        fit_version(
            timeline[1],
            attributes,
            plan("posthoc-linear-single", 12),
            previous=previous,
            score=None,
            fitted=fitted,
        )
        for fitted in (None, plain.model)
    )
    assert mapped.model is plain.model
    assert set(mapped.curves) == {"map"}
    np.testing.assert_array_equal(mapped.matrix, whole.matrix)


def test_an_old_model_embeds_a_later_snapshot_with_the_values_it_knows(world, first):
    timeline, attributes = world
    later = timeline[4]
    known = first.model.vocabulary
    now = attributes.vocabulary(items=later.n_items)
    assert any(len(now[kind]) > len(known[kind]) for kind in now)
    z = first.model.embed(later, attributes)
    assert z.shape == (later.n_users + later.n_items, 8)
    assert np.isfinite(z).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_learns_what_a_cpu_does(world, first):
    timeline, attributes = world
    previous = Predecessor(first.model, ())
    on = {
        device: fit_version(
            timeline[1],
            attributes,
            plan("bc-aligner", 12),
            previous=previous,
            score=None,
            device=device,
        )
        for device in ("cpu", "cuda")
    }
    np.testing.assert_allclose(on["cpu"].matrix, on["cuda"].matrix, atol=1e-2)
