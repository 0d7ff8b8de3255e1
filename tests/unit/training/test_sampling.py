from collections import Counter

import numpy as np
import pytest
import torch

from backstay.datasets.dataset import Attributes
from backstay.errors import TrainingError
from backstay.models.snapshot import Snapshot
from backstay.training.sampling import TripleSampler
from tests.support.snapshots import random_snapshot, step_of

DRAWS = 60_000


def snapshot_of(train, *, n_users, n_items):
    return Snapshot.of(step_of(train, n_users=n_users, n_items=n_items), Attributes(()))


def random_sampler(seed=0, **options):
    step, attributes = random_snapshot(seed, **options)
    edges = set(zip(step.train.users.tolist(), step.train.items.tolist(), strict=True))
    return TripleSampler(Snapshot.of(step, attributes)), edges


def rng(seed=0):
    return np.random.default_rng(seed)


def five_sigma(share):
    return 5 * np.sqrt(share * (1 - share) / DRAWS)


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("negatives", [0, 3])
def test_users_are_drawn_uniformly_then_their_edges_then_what_they_have_not_seen(negatives):
    # User 1 rated item 2 twice; user 3 has no edge at all.
    train = [(0, 0), (1, 1), (1, 2), (1, 2), (1, 3), (2, 4), (2, 0)]
    sampler = TripleSampler(snapshot_of(train, n_users=4, n_items=6))
    batch = sampler.draw(DRAWS, rng(), negatives=negatives)

    edges = Counter(zip(batch.users.tolist(), batch.positives.tolist(), strict=True))
    degrees = Counter(user for user, _ in train)
    expected = {edge: count / degrees[edge[0]] / 3 for edge, count in Counter(train).items()}
    assert set(edges) == set(expected)
    for edge, share in expected.items():
        assert edges[edge] / DRAWS == pytest.approx(share, abs=five_sigma(share))
    if negatives:
        return

    contrasts = Counter(zip(batch.users.tolist(), batch.negatives.tolist(), strict=True))
    unseen = {user: [i for i in range(6) if (user, i) not in train] for user in range(3)}
    assert set(contrasts) == {(user, item) for user, items in unseen.items() for item in items}
    for (user, _), count in contrasts.items():
        share = 1 / 3 / len(unseen[user])
        assert count / DRAWS == pytest.approx(share, abs=five_sigma(share))


def test_every_triple_is_an_edge_and_a_non_edge():
    sampler, edges = random_sampler(edges=60)
    batch = sampler.draw(2000, rng(1))
    assert batch.counted is None
    users, positives, negatives = (column.tolist() for column in batch[:3])
    assert set(zip(users, positives, strict=True)) <= edges
    assert not set(zip(users, negatives, strict=True)) & edges


def test_shared_negatives_count_for_those_who_have_not_taken_them():
    for seed in range(20):
        sampler, edges = random_sampler(seed, edges=50)
        batch = sampler.draw(30, rng(seed), negatives=4)
        assert len(set(batch.negatives.tolist())) == len(batch.negatives) == 4
        expected = [
            [(user, item) not in edges for item in batch.negatives.tolist()]
            for user in batch.users.tolist()
        ]
        assert batch.counted.tolist() == expected


def test_shared_negatives_are_any_items_alike():
    sampler, generator = random_sampler()[0], rng()
    draws = 3_000
    counts = Counter(
        item for _ in range(draws) for item in sampler.draw(1, generator, negatives=3).negatives
    )
    share = 3 / 9
    for item in range(9):
        spread = (share * (1 - share) / draws) ** 0.5
        assert counts[item] / draws == pytest.approx(share, abs=5 * spread)


def test_more_shared_negatives_than_items_are_all_items():
    batch = random_sampler()[0].draw(5, rng(), negatives=1000)
    assert sorted(batch.negatives.tolist()) == list(range(9))
    assert batch.counted.shape == (5, 9)


def test_a_user_who_has_seen_everything_is_left_out():
    train = [(0, 0), (0, 1), (0, 2), (0, 2), (1, 0)]
    sampler = TripleSampler(snapshot_of(train, n_users=2, n_items=3))
    for negatives in (0, 2):
        assert set(sampler.draw(200, rng(), negatives=negatives).users.tolist()) == {1}


@pytest.mark.parametrize("train", [[], [(0, 0), (0, 1), (1, 1), (1, 0)]], ids=["none", "all"])
def test_nothing_to_contrast_is_an_error(train):
    with pytest.raises(TrainingError, match=f"no such user among {len(train)} training edges"):
        TripleSampler(snapshot_of(train, n_users=2, n_items=2))


@pytest.mark.parametrize("negatives", [0, 4])
def test_a_draw_depends_on_its_generator_alone(negatives):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global generator is the point
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    sampler, _ = random_sampler()
    first = sampler.draw(50, rng(5), negatives=negatives)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    # Neither the draws before nor the sampler itself matter.
    sampler.draw(7, rng(8))
    fresh, _ = random_sampler()
    for again in (sampler, fresh):
        assert same(first, again.draw(50, rng(5), negatives=negatives))
    assert not same(first[:3], sampler.draw(50, rng(6), negatives=negatives)[:3])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shards_partition_a_batch(size):
    batch = random_sampler()[0].draw(50, rng())
    shards = [batch.shard(rank, size) for rank in range(size)]
    together = [triple for shard in shards for triple in zip(*map(list, shard[:3]), strict=True)]
    assert sorted(together) == sorted(zip(*map(list, batch[:3]), strict=True))
    assert max(len(shard.users) for shard in shards) - min(len(s.users) for s in shards) <= 1


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shards_share_the_negatives_that_their_pairs_share(size):
    batch = random_sampler()[0].draw(50, rng(), negatives=4)

    def pairs(part):
        return sorted(
            (*pair, tuple(counted))
            for *pair, counted in zip(part.users, part.positives, part.counted, strict=True)
        )

    shards = [batch.shard(rank, size) for rank in range(size)]
    assert sorted(pair for shard in shards for pair in pairs(shard)) == pairs(batch)
    assert all(shard.negatives.tolist() == batch.negatives.tolist() for shard in shards)


@pytest.mark.parametrize("negatives", [0, 2])
def test_nodes_come_by_role(negatives):
    sampler = TripleSampler(snapshot_of([(1, 2)], n_users=2, n_items=3))
    batch = sampler.draw(2, rng(), negatives=negatives)
    users, positives, contrasts = np.split(batch.nodes(2), [2, 4])
    assert users.tolist() == [1, 1]
    assert positives.tolist() == [4, 4]
    assert contrasts.tolist() == [2 + item for item in batch.negatives.tolist()]
