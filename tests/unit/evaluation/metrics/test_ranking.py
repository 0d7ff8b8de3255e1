import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.errors import TrainingError, UsageError
from backstay.evaluation.metrics.ranking import RankingTask
from tests.support.recall import recall_at_k
from tests.support.snapshots import step_of


def random_step(rng, *, n_users=40, n_items=30):
    def pairs(count):
        return np.stack([rng.integers(0, n_users, count), rng.integers(0, n_items, count)], 1)

    return step_of(pairs(300), validation=pairs(70), n_users=n_users, n_items=n_items)


def slow_recall(users_z, items_z, step, k):
    """The definition, user by user; ties at the last place are shared."""
    values = {}
    for user in sorted(set(step.validation.users.tolist())):
        seen = {i for u, i in zip(step.train.users, step.train.items, strict=True) if u == user}
        wanted = {
            i
            for u, i in zip(step.validation.users, step.validation.items, strict=True)
            if u == user
        }
        score = {i: float(users_z[user] @ items_z[i]) for i in range(step.n_items) if i not in seen}
        hits = 0.0
        for item in wanted & set(score):
            better = sum(value > score[item] for value in score.values())
            level = sum(value == score[item] for value in score.values())
            hits += min(1.0, max(0.0, (k - better) / level))
        values[user] = hits / len(wanted)
    return values


@pytest.mark.parametrize("k", [1, 5, 29, 30, 100])
@pytest.mark.parametrize("block_scores", [1, 100, 1 << 24])
def test_agrees_with_the_definition(k, block_scores):
    rng = np.random.default_rng(3)
    step = random_step(rng)
    users_z = rng.integers(-2, 3, (40, 3)).astype(np.float32)  # integers: exact, many ties
    items_z = rng.integers(-2, 3, (30, 3)).astype(np.float32)
    result = RankingTask.of(step).recall(users_z, items_z, k=k, block_scores=block_scores)
    slow = slow_recall(users_z, items_z, step, k)
    assert result.users.tolist() == list(slow)
    np.testing.assert_allclose(result.values, list(slow.values()), rtol=1e-12)
    assert result.mean == pytest.approx(np.mean(list(slow.values())))


def test_known_answer():
    # User 0 has seen item 0 and wants items 1 and 3; scores are the item numbers' values.
    step = step_of([(0, 0)], validation=[(0, 1), (0, 3), (0, 3)], n_users=2, n_items=4)
    users_z = np.ones((2, 1), np.float32)
    items_z = np.array([[9], [3], [5], [1]], np.float32)
    assert recall_at_k(users_z, items_z, step, k=1).mean == 0
    assert recall_at_k(users_z, items_z, step, k=2).mean == 0.5
    assert recall_at_k(users_z, items_z, step, k=3).mean == 1
    assert recall_at_k(users_z, items_z, step, k=2).users.tolist() == [0]


def test_ties_share_the_last_places():
    step = step_of([], validation=[(0, 0)], n_users=1, n_items=4)
    z = np.zeros((1, 2), np.float32), np.zeros((4, 2), np.float32)
    assert recall_at_k(*z, step, k=1).mean == pytest.approx(0.25)
    assert recall_at_k(*z, step, k=3).mean == pytest.approx(0.75)


def test_a_user_who_has_seen_everything_hits_nothing():
    step = step_of([(0, 0), (0, 1)], validation=[(0, 1), (1, 1)], n_users=2, n_items=2)
    z = np.ones((2, 1), np.float32), np.ones((2, 1), np.float32)
    for k in (1, 2, 3):
        result = recall_at_k(*z, step, k=k)
        assert result.values[0] == 0
        assert result.values[1] == pytest.approx(min(1, k / 2))


def test_without_validation_edges_there_is_nothing_to_average():
    result = recall_at_k(
        np.ones((1, 1), np.float32),
        np.ones((2, 1), np.float32),
        step_of([(0, 0)], n_users=1, n_items=2),
    )
    assert len(result.values) == 0
    assert np.isnan(result.mean)


def test_a_fixed_sample_of_users():
    rng = np.random.default_rng(4)
    step = random_step(rng)
    users_z, items_z = rng.normal(size=(40, 4)), rng.normal(size=(30, 4))
    everyone = RankingTask.of(step).recall(users_z, items_z, k=5)
    task, again = (RankingTask.of(step, most_users=9) for _ in range(2))
    assert task.users.tolist() == again.users.tolist()
    assert len(task.users) == 9
    sample = task.recall(users_z, items_z, k=5)
    assert sample.users.tolist() == sorted(set(task.users.tolist()))
    recall_of = dict(zip(everyone.users.tolist(), everyone.values.tolist(), strict=True))
    assert sample.values.tolist() == [recall_of[user] for user in sample.users.tolist()]
    for enough in (len(everyone.users), 1000, None):
        assert RankingTask.of(step, most_users=enough).users.tolist() == everyone.users.tolist()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_items_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    step = random_step(rng, n_users=8, n_items=12)
    users_z = rng.integers(-1, 2, (8, 2)).astype(np.float32)
    items_z = rng.integers(-1, 2, (12, 2)).astype(np.float32)
    new = rng.permutation(12)

    def renamed(old):
        return np.stack([old.users, new[old.items]], 1)

    permuted = step_of(
        renamed(step.train), validation=renamed(step.validation), n_users=8, n_items=12
    )
    moved = np.empty_like(items_z)
    moved[new] = items_z
    np.testing.assert_allclose(
        recall_at_k(users_z, items_z, step, k=4).values,
        recall_at_k(users_z, moved, permuted, k=4).values,
    )


def test_accepts_tensors_that_require_gradients():
    step = random_step(np.random.default_rng(0))
    users_z = torch.randn(40, 4, requires_grad=True)
    items_z = torch.randn(30, 4, requires_grad=True)
    result = recall_at_k(users_z, items_z, step, k=5)
    slow = slow_recall(users_z.detach().numpy(), items_z.detach().numpy(), step, 5)
    np.testing.assert_allclose(result.values, list(slow.values()))
    assert users_z.grad is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees():
    rng = np.random.default_rng(5)
    step = random_step(rng)
    users_z = torch.from_numpy(rng.integers(-2, 3, (40, 3)).astype(np.float32))
    items_z = torch.from_numpy(rng.integers(-2, 3, (30, 3)).astype(np.float32))
    np.testing.assert_allclose(
        recall_at_k(users_z.cuda(), items_z.cuda(), step, k=5).values,
        recall_at_k(users_z, items_z, step, k=5).values,
    )


def test_refuses_vectors_of_another_step_and_broken_ones():
    task = RankingTask.of(random_step(np.random.default_rng(0)))
    users_z, items_z = np.ones((40, 2), np.float32), np.ones((30, 2), np.float32)
    with pytest.raises(UsageError, match="40 users and 30 items"):
        task.recall(users_z[:-1], items_z)
    with pytest.raises(UsageError, match="one dimension"):
        task.recall(users_z, items_z[:, :1])
    with pytest.raises(UsageError, match="at least 1"):
        task.recall(users_z, items_z, k=0)
    users_z[0, 0] = np.nan
    with pytest.raises(TrainingError, match="not finite"):
        task.recall(users_z, items_z)
