"""Batches and the parts that workers share out."""

from collections import Counter

import numpy as np
import pytest
import torch

from backstay.models.architectures import ARCHITECTURES, model_weights
from backstay.models.protocol import ModelConfig
from backstay.models.trained import TrainedModel
from backstay.training.batches import SampledGroups, WholeGraph
from backstay.training.config import FitConfig
from backstay.training.phase_timer import PhaseTimer
from backstay.training.teacher import Teacher
from backstay.training.workers import ALONE, Workers
from tests.support.planted import (
    ATTRIBUTES,
    CPU,
    EVERYONE,
    GRAPH,
    SAMPLED,
    SNAPSHOT,
    STEP,
    VALUES,
    WHOLE,
    pinsage,
    vectors,
)

BATCH = 61  # workers can't share it evenly


def batches(model=None, *, fixed=False, teacher=None, timer=None, **options):
    config = FitConfig(**({"batch_size": BATCH} | options))
    on = {"teacher": teacher, "device": CPU, "timer": timer or PhaseTimer()}
    if config.sampling == "neighbours":
        return SampledGroups(SNAPSHOT, model or pinsage(), config, **on)
    return WholeGraph(SNAPSHOT, model or pinsage(), config, fixed=fixed, **on)


def pairs(parts):
    """Every pair with its negatives."""
    found = Counter()
    for part in parts:
        users, positives, negatives, counted = part.batch
        for row, (user, positive) in enumerate(zip(users, positives, strict=True)):
            against = (negatives[row],) if counted is None else tuple(negatives[counted[row]])
            found[user, positive, against] += 1
    return found


@pytest.fixture(params=[WHOLE, SAMPLED], ids=["whole", "sampled"])
def mode(request):
    return request.param


@pytest.fixture(params=[0, 5], ids=["own", "shared"])
def negatives(request):
    return request.param


def test_workers_together_learn_what_one_does(mode, negatives):
    source = batches(negatives=negatives, **mode)
    alone = list(source.parts(3, ALONE))
    size_of_batch = BATCH if mode is WHOLE else 4 * 16
    assert sum(pairs(alone).values()) == size_of_batch
    assert sum(part.share for part in alone) == pytest.approx(1)
    for size in (2, 3, 5):
        parts = [part for rank in range(size) for part in source.parts(3, Workers(rank, size))]
        assert pairs(parts) == pairs(alone)
        assert sum(part.share for part in parts) == pytest.approx(1)
        for part in parts:
            assert part.share == pytest.approx(len(part.batch.users) / size_of_batch)


def test_a_batch_depends_on_the_seed_and_its_number_alone(mode, negatives):
    def found(number, *, seed=42, source=None):
        source = source or batches(negatives=negatives, seed=seed, **mode)
        return pairs(source.parts(number, ALONE))

    source = batches(negatives=negatives, **mode)
    first = found(7, source=source)
    assert found(8, source=source) != first
    assert found(7, source=source) == first
    assert found(7) == first
    assert found(7, seed=43) != first


def test_groups_have_draws_of_their_own():
    groups = list(batches(negatives=5, **SAMPLED).parts(0, ALONE))
    assert len({part.batch.users.tobytes() for part in groups}) == 4
    assert len({part.batch.negatives.tobytes() for part in groups}) == 4


def test_groups_are_as_large_as_each_other_whoever_runs_them():
    source = batches(**SAMPLED)
    alone = list(source.parts(0, ALONE))
    assert [len(part.batch.users) for part in alone] == [16, 16, 16, 16]
    second = list(source.parts(0, Workers(1, 3)))
    assert len(second) == 1
    for ours, theirs in zip(second[0].batch[:3], alone[1].batch[:3], strict=True):
        assert np.array_equal(ours, theirs)
    ours, theirs = (part.graph.first.csr.values() for part in (second[0], alone[1]))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_rows_of_a_part_are_the_vectors_of_its_nodes(mode, negatives, architecture):
    """With a fan-out that covers all, a sampled graph gives the vectors of the full one."""
    model = pinsage(architecture=architecture).eval()
    z = vectors(model)
    source = batches(model, negatives=negatives, **(mode | {"fan_out": EVERYONE}))
    for part in source.parts(0, ALONE):
        assert part.nodes.tolist() == part.batch.nodes(SNAPSHOT.n_users).tolist()
        torch.testing.assert_close(model(part.graph)[part.rows], z[part.nodes])


def test_on_a_sample_the_teacher_embeds_that_sample():
    """Not over all neighbours, among them the item that is to be recommended."""
    config = ModelConfig(dim=6, values=VALUES)
    before = TrainedModel(
        config,
        model_weights(pinsage(6)),
        {kind.name: tuple(kind.values) for kind in ATTRIBUTES.kinds},
    )
    table = torch.tensor(before.embed(STEP, ATTRIBUTES))
    teacher = Teacher(table, before, [SNAPSHOT])
    network = before.load()
    for part in batches(pinsage(6), teacher=teacher, **SAMPLED).parts(0, ALONE):
        with torch.no_grad():
            expected = network(part.graph)[part.rows]
        assert torch.equal(part.teacher, expected)
        assert not torch.allclose(part.teacher, table[part.nodes], atol=1e-3)
    for part in batches(pinsage(6), teacher=teacher, **WHOLE).parts(0, ALONE):
        assert torch.equal(part.teacher, table[part.nodes])


def test_a_part_of_fixed_vectors_has_no_graph_to_run():
    source = batches(fixed=True, **WHOLE)
    (part,) = source.parts(0, ALONE)
    assert part.graph is None
    assert torch.equal(part.rows, part.nodes)
    assert list(source.calibration()) == []


def test_batch_norms_are_calibrated_on_the_graph_that_is_trained_on():
    (graph,) = batches(**WHOLE).calibration()
    assert torch.equal(graph.first.csr.to_dense(), GRAPH.first.csr.to_dense())


def test_batch_norms_are_calibrated_on_graphs_that_are_like_those_trained_on():
    source = batches(**SAMPLED)
    graphs = list(source.calibration())
    again = list(source.calibration())
    assert len(graphs) == 16
    trained = [
        part.graph.gather(1).shape[0]
        for number in range(20)
        for part in source.parts(number, ALONE)
    ]
    for graph, same in zip(graphs, again, strict=True):
        assert 0.7 * min(trained) <= graph.gather(1).shape[0] <= 1.3 * max(trained)
        assert torch.equal(graph.first.csr.values(), same.first.csr.values())


def test_the_timer_separates_drawing_from_sampling():
    timer = PhaseTimer()
    list(batches(timer=timer, **SAMPLED).parts(0, ALONE))
    assert set(timer.seconds) == {"data", "sampling"}
    assert all(seconds > 0 for seconds in timer.seconds.values())
