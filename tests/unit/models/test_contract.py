"""What the loop asks of every embedding model, whatever its architecture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from backstay.datasets.csr import Csr
from backstay.datasets.dataset import Attributes
from backstay.errors import CorruptError, UsageError
from backstay.models.architectures import ARCHITECTURES, build_model, load_model, model_weights
from backstay.models.graph import full_graph
from backstay.models.inference import embed
from backstay.models.neighbours import NeighbourSampler
from backstay.models.protocol import EmbeddingModel, ModelConfig
from backstay.models.snapshot import Snapshot
from tests.support.snapshots import (
    edges_of,
    kind_of,
    planted_snapshot,
    random_snapshot,
    step_of,
)

DIM = 6


class Case:
    """An architecture on a random snapshot, with the items' ids where it asks for them."""

    def __init__(self, architecture, *, layers=2, seed=0):
        self.kind = ARCHITECTURES[architecture]
        self.step, attributes = random_snapshot(seed)
        known = attributes.with_ids() if self.kind.uses_item_ids else attributes
        self.vocabulary = known.vocabulary(items=self.step.n_items)
        self.attributes = known.reindexed(self.vocabulary)
        self.config = ModelConfig(
            architecture=architecture,
            dim=DIM,
            layers=layers,
            values=tuple(len(values) for values in self.vocabulary.values()),
        )
        self.snapshot = Snapshot.of(self.step, self.attributes)

    def graph(self, step=None, attributes=None):
        return full_graph(
            Snapshot.of(step or self.step, attributes or self.attributes), self.kind.normalisation
        )

    def sampler(self, fan_out):
        model = build_model(self.config, seed=0)
        return NeighbourSampler(
            snapshot=self.snapshot,
            n_layers=model.n_layers,
            fan_out=fan_out,
            normalisation=model.normalisation,
        )

    def trained(self):
        """A model that has taken a few steps, so that no part of its state is at its start."""
        model, graph = build_model(self.config, seed=0), self.graph()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(3):
            optimiser.zero_grad()
            loss_of(model(graph)).backward()
            optimiser.step()
        return model.eval()


def loss_of(z):
    return (z * torch.arange(1.0, DIM + 1)).square().sum()


@pytest.fixture(params=sorted(ARCHITECTURES))
def case(request):
    return Case(request.param)


@pytest.fixture(params=[1, 3])
def deep(request, case):
    return Case(case.config.architecture, layers=request.param)


def test_every_node_gets_a_finite_vector_and_every_weight_a_gradient(deep):
    model = build_model(deep.config, seed=0)
    assert isinstance(model, EmbeddingModel)
    z = model(deep.graph())
    assert z.shape == (12 + 9, DIM)
    assert z.dtype == torch.float32
    assert z.isfinite().all()
    loss_of(z).backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.count_nonzero()


def test_users_and_items_never_seen_get_vectors_of_their_own(case):
    model = case.trained()
    later, attributes = random_snapshot(1, n_users=30, n_items=20, edges=90)
    z = embed(model, Snapshot.of(later, attributes.reindexed(case.vocabulary)))
    assert z.shape == (50, DIM)
    assert z.isfinite().all()
    bought_from = np.unique(later.train.users[later.train.users >= case.step.n_users])
    assert len(torch.unique(z[bought_from], dim=0)) > len(bought_from) / 2
    rows = attributes.kinds[0].rows.starts
    new_with_attributes = 9 + np.flatnonzero(np.diff(rows)[9:])
    assert z[30 + new_with_attributes].abs().sum(1).all()


def test_an_item_of_which_nothing_is_known_gets_a_finite_vector(case):
    attributes = Attributes(
        tuple(
            kind_of(kind.name, [[0], []], values=len(kind.values)) for kind in case.attributes.kinds
        )
    )
    z = embed(case.trained(), Snapshot.of(step_of([(0, 0)], n_users=2, n_items=2), attributes))
    assert z.isfinite().all()


def test_a_snapshot_without_any_edge_gives_vectors_too(case):
    z = embed(case.trained(), Snapshot.of(step_of([], n_users=3, n_items=9), case.attributes))
    assert z.shape == (12, DIM)
    assert z.isfinite().all()
    torch.testing.assert_close(z[:2], z[1:3], atol=0, rtol=0)


def test_nodes_alike_get_the_same_vector(case):
    wider = replace(case.step, n_users=case.step.n_users + 2)
    users = case.trained()(case.graph(wider))[: wider.n_users]
    torch.testing.assert_close(users[-1], users[-2], atol=0, rtol=0)


def test_the_order_of_edges_does_not_matter(case):
    train = case.step.train
    order = np.random.default_rng(0).permutation(len(train))
    shuffled = edges_of(np.stack([train.users, train.items], axis=1)[order])
    model = case.trained()
    torch.testing.assert_close(
        model(case.graph()), model(case.graph(replace(case.step, train=shuffled))), atol=0, rtol=0
    )


def test_an_edge_that_is_there_twice_counts_twice(case):
    model = case.trained()

    def first_user(*items):
        return model(case.graph(step_of([(0, i) for i in items], n_users=1, n_items=9)))[0]

    twice = first_user(0, 0, 1)
    assert (twice - first_user(0, 1)).abs().max() > 1e-4
    torch.testing.assert_close(twice, first_user(0, 1, 0), atol=0, rtol=0)


def test_renumbering_users_renumbers_their_vectors(case):
    train = case.step.train
    order = np.random.default_rng(0).permutation(case.step.n_users)
    renumbered = edges_of(np.stack([order[train.users], train.items], axis=1))
    model = case.trained()
    users = model(case.graph())[: case.step.n_users]
    moved = model(case.graph(replace(case.step, train=renumbered)))
    torch.testing.assert_close(moved[torch.from_numpy(order)], users)


def test_renumbering_items_renumbers_their_vectors(case):
    train, n_users = case.step.train, case.step.n_users
    order = np.random.default_rng(0).permutation(case.step.n_items)
    came_from = np.argsort(order)
    kinds = tuple(
        kind_of(
            kind.name,
            [
                kind.rows.columns[kind.rows.starts[item] : kind.rows.starts[item + 1]]
                for item in came_from
            ],
            values=len(kind.values),
        )
        for kind in case.attributes.kinds
    )
    renumbered = edges_of(np.stack([train.users, order[train.items]], axis=1))
    model = case.trained()
    z = model(case.graph())
    moved = model(case.graph(replace(case.step, train=renumbered), Attributes(kinds)))
    torch.testing.assert_close(moved[:n_users], z[:n_users])
    torch.testing.assert_close(moved[n_users:][torch.from_numpy(order)], z[n_users:])


def test_a_stored_model_gives_the_same_vectors(case):
    model = case.trained()
    stored = load(save({name: np.array(value) for name, value in model_weights(model).items()}))
    for value in stored.values():
        value.setflags(write=False)
    loaded = load_model(case.config.to_dict(), stored)
    assert not loaded.training
    assert loaded.config == case.config
    torch.testing.assert_close(loaded(case.graph()), model(case.graph()), atol=0, rtol=0)


def test_the_same_fit_gives_the_same_vectors(case):
    torch.testing.assert_close(
        case.trained()(case.graph()), case.trained()(case.graph()), atol=0, rtol=0
    )


def test_a_seed_decides_the_weights_and_the_global_generator_neither_way(case):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = model_weights(build_model(case.config, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = model_weights(build_model(case.config, seed=3))
    other = model_weights(build_model(case.config, seed=4))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert any((value != other[name]).any() for name, value in first.items())


def test_it_learns_who_likes_what(case):
    step, attributes = planted_snapshot()
    values = tuple(len(kind.values) for kind in attributes.kinds)
    model = build_model(replace(case.config, dim=8, values=values), seed=0)
    graph, rng = case.graph(step, attributes), np.random.default_rng(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(30):
        z = model(graph)
        users, positives = z[step.train.users], z[step.n_users + step.train.items]
        negatives = z[step.n_users + rng.integers(step.n_items, size=len(step.train))]
        optimiser.zero_grad()
        torch.nn.functional.softplus((users * (negatives - positives)).sum(1)).mean().backward()
        optimiser.step()
    users, items = embed(model, Snapshot.of(step, attributes)).split([step.n_users, step.n_items])
    scores = (users @ items.T)[step.validation.users]
    liked = scores[range(len(scores)), step.validation.items]
    assert (liked[:, None] > scores).double().mean() > 0.7  # 0.75 of the items are of other groups


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_samples_that_leave_nobody_out_give_the_vectors_of_the_full_graph(deep, mode):
    model = deep.trained().train(mode == "train")
    everyone = np.arange(deep.snapshot.n_nodes)
    # Batch norm looks at whoever is there: only a batch of all nodes has its statistics.
    nodes = everyone if mode == "train" else np.array([0, 3, 4, 11, 13, 19, 20])
    graph = deep.sampler(fan_out=99).draw(nodes, np.random.default_rng(0))
    torch.testing.assert_close(model(graph), model(deep.graph())[nodes], atol=1e-5, rtol=1e-5)


def test_gradients_through_such_samples_are_those_of_the_full_graph(deep):
    model = deep.trained()
    nodes = np.array([0, 3, 4, 11, 13, 19, 20])
    graph = deep.sampler(fan_out=99).draw(nodes, np.random.default_rng(0))

    def gradients(z):
        model.zero_grad()
        loss_of(z).backward()
        return {name: value.grad.clone() for name, value in model.named_parameters()}

    sampled, full = gradients(model(graph)), gradients(model(deep.graph())[nodes])
    for name, expected in full.items():
        torch.testing.assert_close(sampled[name], expected, atol=1e-4, rtol=1e-4)


def test_a_sample_that_leaves_some_out_is_right_on_average(case):
    """With one layer in evaluation mode, vectors are affine in the messages to a node."""
    flat = Case(case.config.architecture, layers=1)
    model, sampler, rng = flat.trained(), flat.sampler(fan_out=2), np.random.default_rng(0)
    nodes = np.arange(flat.snapshot.n_nodes)
    with torch.no_grad():
        draws = torch.stack([model(sampler.draw(nodes, rng)) for _ in range(1000)]).double()
        expected = model(flat.graph()).double()
    error = draws.std(0) / len(draws) ** 0.5
    varies = error > 1e-6
    assert varies[: flat.step.n_users].any(1).sum() > flat.step.n_users / 2
    deviation = (draws.mean(0) - expected).abs()
    assert (deviation[varies] / error[varies]).max() < 4.5  # of some 70 standard normal ones
    assert deviation[~varies].max() < 1e-5


def test_a_wider_model_can_begin_with_what_an_older_one_does(deep):
    older = deep.trained()
    # The same values in another order, and one more of each kind.
    orders = [np.random.default_rng(0).permutation(1 + count) for count in deep.config.values]
    wider = build_model(
        replace(deep.config, dim=DIM + 3, values=tuple(len(order) for order in orders)), seed=1
    )
    firsts = np.cumsum([1, *deep.config.values[:-1]])
    rows = [np.zeros(1, np.int64)]
    for first, count, order in zip(firsts, deep.config.values, orders, strict=True):
        rows.append(np.where(order < count, first + order, -1))
    attributes = Attributes(
        tuple(
            replace(
                kind,
                values=tuple((*kind.values, "new")[n] for n in order),
                rows=Csr(kind.rows.starts, np.argsort(order)[kind.rows.columns].astype(np.int32)),
            )
            for kind, order in zip(deep.attributes.kinds, orders, strict=True)
        )
    )
    assert wider.inherit(older, torch.from_numpy(np.concatenate(rows)))
    z = embed(wider, Snapshot.of(deep.step, attributes))
    torch.testing.assert_close(z[:, :DIM], embed(older, deep.snapshot), atol=1e-5, rtol=1e-5)
    assert z[:-1, DIM:].abs().sum(1).count_nonzero() > len(z) / 2


@pytest.mark.parametrize("layers", [(1, 2), (1, 3), (2, 3), (2, 4)])
def test_a_deeper_model_begins_so_too_or_is_refused_and_unchanged(case, layers):
    older = Case(case.config.architecture, layers=layers[0]).trained()
    deeper = build_model(replace(case.config, layers=layers[1]), seed=1)
    before = {name: value.copy() for name, value in model_weights(deeper).items()}
    if deeper.inherit(older, torch.arange(1 + sum(case.config.values))):
        torch.testing.assert_close(
            embed(deeper, case.snapshot), embed(older, case.snapshot), atol=1e-3, rtol=1e-3
        )
    else:
        for name, value in model_weights(deeper).items():
            np.testing.assert_array_equal(value, before[name])


def test_weights_of_another_shape_are_refused(case):
    with pytest.raises(CorruptError, match="expected weights of the stored configuration"):
        load_model(replace(case.config, dim=5).to_dict(), model_weights(case.trained()))


def test_a_configuration_survives_json(case):
    assert ModelConfig.from_dict(case.config.to_dict()) == case.config


@pytest.mark.parametrize("field", ["dim", "layers"])
def test_a_size_below_one_is_refused(field):
    with pytest.raises(UsageError, match=f"{field} must be at least 1, found 0"):
        ModelConfig(**{field: 0})


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'transformer'; expected one of .*lightgcn.*pinsage"):
        build_model(ModelConfig(architecture="transformer"), seed=0)
