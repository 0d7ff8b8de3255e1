"""Sampled graphs, looked at through matrices alone; what models make of them: test_contract."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch

from backstay.datasets.dataset import Attributes
from backstay.models.graph import dst_of, full_graph
from backstay.models.neighbours import NeighbourSampler
from backstay.models.snapshot import Snapshot
from tests.support import dense
from tests.support.snapshots import kind_of, random_snapshot, step_of

NORMALISATIONS = pytest.mark.parametrize("normalisation", ["mean", "symmetric"])


def sampler_of(snapshot, *, n_layers=2, fan_out=3, normalisation="mean"):
    return NeighbourSampler(
        snapshot=snapshot, n_layers=n_layers, fan_out=fan_out, normalisation=normalisation
    )


def snapshot_of(n_users, *, n_items=40, edges_per_user=6, seed=0):
    """A snapshot of any size, in which an item has one of eight attributes."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), edges_per_user)
    pairs = np.stack([users, rng.integers(n_items, size=len(users))], axis=1)
    kind = kind_of("colour", [[item % 8] for item in range(n_items)], values=8)
    return Snapshot.of(step_of(pairs, n_users=n_users, n_items=n_items), Attributes((kind,)))


@NORMALISATIONS
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_with_a_fan_out_that_covers_all_a_sample_is_the_full_graph(n_layers, normalisation):
    snapshot = Snapshot.of(*random_snapshot())
    nodes = np.array([0, 4, 11, 12, 19, 20])  # 11 and 20 have no edge
    sampler = sampler_of(snapshot, n_layers=n_layers, fan_out=99, normalisation=normalisation)
    graph = sampler.draw(nodes, np.random.default_rng(0))
    whole = full_graph(snapshot, normalisation)
    table = torch.randn(snapshot.n_values, 4)

    def run(graph):
        h = graph.first @ (graph.inputs @ table).view(-1, 2)
        for number in range(1, n_layers):
            h = (graph.gather(number) @ h).view(-1, 2, h.shape[1]).sum(1)
        return h

    assert len(graph.further) == n_layers - 1
    torch.testing.assert_close(run(graph), run(whole)[nodes])


def test_dst_are_the_nodes_asked_for_in_their_order():
    snapshot = Snapshot.of(*random_snapshot())
    everyone = sampler_of(snapshot, fan_out=99).draw(
        np.arange(snapshot.n_nodes), np.random.default_rng(0)
    )
    assert dst_of(everyone.gather(1)).tolist() == list(range(snapshot.n_nodes))
    some = sampler_of(snapshot, fan_out=99).draw(np.array([2, 7, 15]), np.random.default_rng(0))
    others = {2, 7, 15}.union(
        *(dense.neighbours_of(random_snapshot()[0])[node] for node in (2, 7, 15))
    )
    sources = sorted(others)
    assert [sources[at] for at in dst_of(some.gather(1)).tolist()] == [2, 7, 15]


def test_a_node_has_no_more_neighbours_than_the_fan_out_and_only_its_neighbours():
    step, attributes = random_snapshot(edges=90)
    snapshot = Snapshot.of(step, attributes)
    others = dense.neighbours_of(step)
    users = np.arange(step.n_users)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        (layer,) = sampler_of(snapshot).sample(users, rng, n_layers=1)
        assert layer.counts.tolist() == [min(len(others[user]), 3) for user in users]
        dst = np.repeat(users, layer.counts)
        for user, source in zip(dst, layer.src, strict=True):
            assert source in others[user]
        weights = snapshot.weights(layer.dst, layer.counts, layer.src, "mean")
        assert np.bincount(dst, weights) == pytest.approx(
            [1.0] * (step.n_users - 1)  # the last user has no edge
        )


def test_every_neighbour_is_drawn_equally_often():
    snapshot = Snapshot.of(
        step_of([(0, item) for item in range(10)], n_users=1, n_items=10), Attributes(())
    )
    sampler, rng = sampler_of(snapshot, fan_out=4), np.random.default_rng(0)
    drawn = Counter()
    draws = 5000
    for _ in range(draws):
        (layer,) = sampler.sample(np.array([0]), rng, n_layers=1)
        drawn.update(layer.src.tolist())
    expected = draws * 4 / 10
    chi_squared = sum((drawn[node] - expected) ** 2 / expected for node in range(1, 11))
    assert sum(drawn.values()) == draws * 4
    assert chi_squared < 27.9  # 9 degrees of freedom: one in a thousand lies above


def arrays_of(graph):
    matrices = (graph.inputs, graph.first, *graph.further)
    parts = ("crow_indices", "col_indices", "values")
    return [getattr(matrix.csr, part)().tolist() for matrix in matrices for part in parts]


@NORMALISATIONS
@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_shallower_model_reads_the_last_layers_of_a_sample(n_layers, normalisation):
    """As if they were all that there is: what was drawn for the n_layers before is not seen."""
    snapshot, nodes = snapshot_of(30), np.array([1, 5, 33])
    deep, shallow = (
        sampler_of(snapshot, n_layers=number, normalisation=normalisation)
        for number in (3, n_layers)
    )
    sample = deep.sample(nodes, np.random.default_rng(0), n_layers=3)
    found = shallow.graph(sample)
    cut = sample[n_layers - 1]
    users = int((cut.dst < snapshot.n_users).sum())
    last = cut._replace(counts=cut.counts[:users], src=cut.src[: cut.counts[:users].sum()])
    assert arrays_of(found) == arrays_of(shallow.graph((*sample[: n_layers - 1], last)))
    assert len(found.further) == n_layers - 1
    assert dst_in(found) == dst_in(deep.graph(sample)) == len(nodes)


def dst_in(graph):
    return graph.further[-1].shape[0] // 2 if graph.further else graph.first.shape[0]


def test_a_generator_decides_the_sample():
    snapshot, nodes = snapshot_of(30), np.array([1, 5, 33])

    def columns(seed):
        graph = sampler_of(snapshot).draw(nodes, np.random.default_rng(seed))
        return graph.first.csr.col_indices().tolist()

    assert columns(1) == columns(1)
    assert columns(1) != columns(2)


@NORMALISATIONS
@pytest.mark.parametrize("n_users", [50, 5000])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_a_graph_is_bounded_by_batch_and_fan_out(n_layers, n_users, normalisation):
    batch, fan_out = 5, 2
    sampler = sampler_of(
        snapshot_of(n_users), n_layers=n_layers, fan_out=fan_out, normalisation=normalisation
    )
    graph = sampler.draw(np.array([0, 1, 2, n_users, n_users + 1]), np.random.default_rng(0))
    dst = batch
    for matrix in reversed(graph.further):
        assert matrix.shape[0] == 2 * dst
        assert matrix.csr._nnz() <= dst * (fan_out + 1)
        assert matrix.shape[1] <= dst * (fan_out + 1)
        dst = matrix.shape[1]
    distinct = graph.inputs.shape[0]
    assert graph.first.shape == (dst, 2 * distinct)
    assert graph.first.csr._nnz() <= dst * (fan_out + 1)
    assert distinct <= dst * (fan_out + 1) + 1
    assert graph.inputs.csr._nnz() <= distinct  # an item has one attribute


@NORMALISATIONS
def test_drawing_takes_no_memory_that_grows_with_the_snapshot(normalisation):
    snapshot = snapshot_of(100_000, edges_per_user=2)
    sampler = sampler_of(snapshot, normalisation=normalisation)
    nodes, rng = np.array([3, 77_777, 100_001]), np.random.default_rng(0)
    sampler.draw(nodes, rng)  # what is made once is made now
    tracemalloc.start()
    try:
        sampler.draw(nodes, rng)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < snapshot.n_nodes  # less than a byte per node


def test_a_batch_of_users_alone_or_of_items_alone_will_do():
    snapshot = Snapshot.of(*random_snapshot())
    for nodes in (np.array([1, 2]), np.array([13, 20]), np.array([11]), np.zeros(0, np.int64)):
        graph = sampler_of(snapshot, n_layers=1).draw(nodes, np.random.default_rng(0))
        assert graph.first.shape == (len(nodes), 2 * graph.inputs.shape[0])
        assert graph.further == ()
