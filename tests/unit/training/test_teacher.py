"""A teacher's vectors, from its table and from samples."""

import numpy as np
import pytest
import torch

from backstay.models.architectures import ARCHITECTURES, build_model, model_weights
from backstay.models.neighbours import NeighbourSampler
from backstay.models.protocol import ModelConfig
from backstay.models.snapshot import Snapshot
from backstay.models.trained import TrainedModel
from backstay.training.teacher import Teacher
from tests.support.planted import ATTRIBUTES, CPU, EVERYONE, NODES, SNAPSHOT, STEP, random

SOME = np.array([0, 3, 4, NODES - 2, NODES - 1])


def trained(dim, *, layers=2, base=None, seed=0, architecture="pinsage", forget=0):
    """A network that has seen some data, and hasn't seen the last `forget` values of a kind."""
    named = ATTRIBUTES.with_ids() if ARCHITECTURES[architecture].uses_item_ids else ATTRIBUTES
    vocabulary = {
        kind.name: tuple(kind.values)[: len(kind.values) - forget] for kind in named.kinds
    }
    values = tuple(len(names) for names in vocabulary.values())
    config = ModelConfig(architecture=architecture, dim=dim, layers=layers, values=values)
    model = build_model(config, seed=seed)
    basis = None
    if base is not None:
        width = base.dim + dim
        basis = np.eye(width, dtype=np.float32) + 0.1 * random(width, width, seed=seed).numpy()
    return TrainedModel(config, model_weights(model), vocabulary, base, basis)


def teacher_of(model):
    snapshots = [SNAPSHOT.read_as(ATTRIBUTES.reindexed(part.vocabulary)) for part in model.lineage]
    return Teacher(torch.tensor(model.embed(STEP, ATTRIBUTES)), model, snapshots)


def sample_of(n_layers, *, fan_out, seed=0):
    sampler = NeighbourSampler(snapshot=SNAPSHOT, n_layers=n_layers, fan_out=fan_out)
    return sampler.sample(SOME, np.random.default_rng(seed), n_layers=n_layers)


LINEAGES = {
    "one": lambda: trained(6),
    "fewer values": lambda: trained(6, forget=1),
    "built onto another": lambda: trained(2, base=trained(6, forget=1), seed=1),
    "of three depths": lambda: trained(
        2, layers=2, base=trained(3, layers=3, base=trained(6, layers=1), seed=1), seed=2
    ),
    "of two kinds": lambda: trained(2, base=trained(6, architecture="lightgcn"), seed=1),
}


@pytest.mark.parametrize("lineage", LINEAGES)
def test_with_a_fan_out_that_covers_all_a_sample_gives_the_rows_of_the_table(lineage):
    teacher = teacher_of(LINEAGES[lineage]())
    before = teacher.sampled(EVERYONE, CPU)
    found = before.embed(sample_of(before.n_layers, fan_out=EVERYONE))
    torch.testing.assert_close(found, teacher.rows(torch.tensor(SOME)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lineage", LINEAGES)
def test_a_deeper_sample_gives_the_same(lineage):
    before = teacher_of(LINEAGES[lineage]()).sampled(EVERYONE, CPU)
    found, deeper = (
        before.embed(sample_of(before.n_layers + more, fan_out=EVERYONE)) for more in (0, 1)
    )
    torch.testing.assert_close(found, deeper, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_teacher_embeds_the_same_sample_as_the_version_that_is_fitted(architecture):
    """So a version that starts as the one before is aligned on every sample, to the last digit."""
    model = trained(6, architecture=architecture)
    network = model.load()
    snapshot = Snapshot.of(STEP, ATTRIBUTES.reindexed(model.vocabulary))
    before = teacher_of(model).sampled(2, CPU)
    sampler = NeighbourSampler(
        snapshot=snapshot, n_layers=network.n_layers, fan_out=2, normalisation=network.normalisation
    )
    sample = sampler.sample(SOME, np.random.default_rng(1), n_layers=before.n_layers)
    with torch.no_grad():
        ours = network(sampler.graph(sample))
    assert torch.equal(before.embed(sample), ours)
    other = sampler.sample(SOME, np.random.default_rng(2), n_layers=before.n_layers)
    assert not torch.allclose(before.embed(other), ours, atol=1e-3)


def test_nothing_is_learned_through_it():
    before = teacher_of(trained(2, base=trained(6))).sampled(3, CPU)
    assert not before.embed(sample_of(before.n_layers, fan_out=3)).requires_grad


def test_a_graph_read_by_another_model_shares_its_memory():
    other = SNAPSHOT.read_as(ATTRIBUTES.reindexed(trained(6, forget=1).vocabulary))
    assert other.neighbours is SNAPSHOT.neighbours
    assert other.n_values == SNAPSHOT.n_values - len(ATTRIBUTES.kinds)


def test_without_the_model_there_is_a_table_alone():
    teacher = Teacher(random(NODES, 6))
    assert teacher.sampled(3, CPU) is None
    assert teacher.dim == 6
    assert torch.equal(teacher.rows(torch.tensor([2, 2])), teacher.table[[2, 2]])
