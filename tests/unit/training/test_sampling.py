from collections import Counter

import numpy as np
import pytest
import torch
from tests.unit.models.snapshots import random_snapshot, step_of

from backstay.errors import TrainingError
from backstay.training.sampling import TripleSampler

DRAWS = 60_000


def five_sigma(share):
    return 5 * np.sqrt(share * (1 - share) / DRAWS)


def test_users_are_drawn_uniformly_then_their_edges_then_what_they_have_not_seen():
    # User 1 rated item 2 twice; user 3 has no edge at all.
    train = [(0, 0), (1, 1), (1, 2), (1, 2), (1, 3), (2, 4), (2, 0)]
    step = step_of(train, n_users=4, n_items=6)
    batch = TripleSampler(step, seed=0).draw(DRAWS)

    edges = Counter(zip(batch.users.tolist(), batch.positives.tolist(), strict=True))
    degrees = Counter(user for user, _ in train)
    expected = {edge: count / degrees[edge[0]] / 3 for edge, count in Counter(train).items()}
    assert set(edges) == set(expected)
    for edge, share in expected.items():
        assert edges[edge] / DRAWS == pytest.approx(share, abs=five_sigma(share))

    contrasts = Counter(zip(batch.users.tolist(), batch.negatives.tolist(), strict=True))
    unseen = {user: [i for i in range(6) if (user, i) not in train] for user in range(3)}
    assert set(contrasts) == {(user, item) for user, items in unseen.items() for item in items}
    for (user, _), count in contrasts.items():
        share = 1 / 3 / len(unseen[user])
        assert count / DRAWS == pytest.approx(share, abs=five_sigma(share))


def test_every_triple_is_an_edge_and_a_non_edge():
    step, _ = random_snapshot(edges=60)
    edges = set(zip(step.train.users.tolist(), step.train.items.tolist(), strict=True))
    users, positives, negatives = (
        column.tolist() for column in TripleSampler(step, seed=1).draw(2000)
    )
    assert set(zip(users, positives, strict=True)) <= edges
    assert not set(zip(users, negatives, strict=True)) & edges


def test_a_user_who_has_seen_everything_is_left_out():
    step = step_of([(0, 0), (0, 1), (0, 2), (0, 2), (1, 0)], n_users=2, n_items=3)
    assert TripleSampler(step, seed=0).draw(200).users.unique().tolist() == [1]


@pytest.mark.parametrize("train", [[], [(0, 0), (0, 1), (1, 1), (1, 0)]], ids=["none", "all"])
def test_nothing_to_contrast_is_an_error(train):
    with pytest.raises(TrainingError, match=rf"the step has {len(train)} training edges"):
        TripleSampler(step_of(train, n_users=2, n_items=2), seed=0)


def test_the_seed_decides_the_draws_and_the_global_generator_neither_way():
    step, _ = random_snapshot()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = TripleSampler(step, seed=5).draw(50)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = (TripleSampler(step, seed=seed).draw(50) for seed in (5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shards_partition_a_batch(size):
    batch = TripleSampler(random_snapshot()[0], seed=0).draw(50)
    shards = [batch.shard(rank, size) for rank in range(size)]
    together = [triple for shard in shards for triple in zip(*map(list, shard), strict=True)]
    assert sorted(together) == sorted(zip(*map(list, batch), strict=True))
    assert max(len(shard.users) for shard in shards) - min(len(s.users) for s in shards) <= 1


def test_nodes_come_by_role():
    batch = TripleSampler(step_of([(1, 2)], n_users=2, n_items=3), seed=0).draw(2)
    users, positives, negatives = batch.nodes(2).chunk(3)
    assert users.tolist() == [1, 1]
    assert positives.tolist() == [4, 4]
    assert negatives.tolist() == [2 + item for item in batch.negatives.tolist()]
