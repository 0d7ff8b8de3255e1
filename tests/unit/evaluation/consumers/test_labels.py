import statistics
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest

from backstay.datasets.dataset import Interactions
from backstay.datasets.timeline import Edges, Step, steps
from backstay.errors import UsageError
from backstay.evaluation.consumers.labels import TASKS, Examples, consumer_tasks


@pytest.fixture(scope="module")
def timeline():
    """Five steps of 4,000 interactions between a growing set of users and 40 items."""
    rng = np.random.default_rng(1)
    n = 4000
    users = np.minimum(rng.integers(0, 300, n), np.arange(n) // 8)
    items = rng.integers(0, 60, n) ** 2 // 60
    taste = rng.normal(3.4, 0.7, 60)
    ratings = np.clip(np.round(taste[items] + rng.normal(0, 1, n)), 1, 5).astype(np.float32)

    def by_first_appearance(values):
        seen = {}
        return np.array([seen.setdefault(v, len(seen)) for v in values.tolist()], np.int32)

    return steps(
        Interactions(
            users=by_first_appearance(users),
            items=by_first_appearance(items),
            ratings=ratings,
            times=np.arange(n, dtype=np.int64),
            user_ids=pa.array([], pa.int64()),
            item_ids=pa.array([], pa.int64()),
        )
    )


@pytest.fixture(scope="module")
def tasks(timeline):
    made, left_out = consumer_tasks(timeline)
    assert left_out == []
    assert [task.name for task in made] == list(TASKS)
    return {task.name: task for task in made}


def rows(edges):
    return list(
        zip(edges.users.tolist(), edges.items.tolist(), edges.ratings.tolist(), strict=True)
    )


def as_dict(examples):
    keys = examples.items if examples.users is None else examples.users
    return dict(zip(keys.tolist(), examples.labels.tolist(), strict=True))


def slow_active(step, least):
    answers = dict.fromkeys(range(step.n_users), False)
    for user, _, rating in rows(step.validation):
        answers[user] |= rating >= least
    return answers


@pytest.mark.parametrize(("name", "least"), [("user_activity", 0), ("positive_user_activity", 4)])
def test_activity_asks_every_user_about_the_next_window(timeline, tasks, name, least):
    task = tasks[name]
    assert as_dict(task.train) == slow_active(timeline[0], least)
    assert task.early_stop_step == 1
    assert as_dict(task.early_stop) == slow_active(timeline[1], least)
    assert list(task.judge) == [2, 3, 4]
    for version, examples in task.judge.items():
        assert as_dict(examples) == slow_active(timeline[version], least)
        assert examples.items is None


def test_edge_rating_trains_on_training_edges_and_is_judged_on_validation_edges(timeline, tasks):
    task = tasks["edge_rating"]
    assert task.early_stop_step == 0
    assert list(task.judge) == [1, 2, 3, 4]
    for examples, edges in [
        (task.train, timeline[0].train),
        (task.early_stop, timeline[0].validation),
        *((task.judge[k], timeline[k].validation) for k in task.judge),
    ]:
        found = list(
            zip(
                examples.users.tolist(),
                examples.items.tolist(),
                examples.labels.tolist(),
                strict=True,
            )
        )
        assert found == [(user, item, rating >= 4) for user, item, rating in rows(edges)]


def ratings_by_item(*parts):
    found = defaultdict(list)
    for part in parts:
        for _, item, rating in rows(part):
            found[item].append(rating)
    return {item: ratings for item, ratings in sorted(found.items()) if len(ratings) >= 10}


def test_items_are_asked_about_over_training_edges_first_and_all_edges_later(timeline, tasks):
    first = ratings_by_item(timeline[0].train)
    median = statistics.median(statistics.fmean(ratings) for ratings in first.values())
    truths = {
        "item_rating_mean": lambda ratings: statistics.fmean(ratings) >= median,
        "item_rating_spread": lambda ratings: statistics.stdev(ratings) >= 1,
    }
    for name, truth in truths.items():
        task = tasks[name]
        assert task.early_stop_step == 0
        assert list(task.judge) == [1, 2, 3, 4]
        assert task.train.users is None
        assert as_dict(task.train) == {item: truth(ratings) for item, ratings in first.items()}
        for version, examples in [(0, task.early_stop), *task.judge.items()]:
            step = timeline[version]
            every = ratings_by_item(step.train, step.validation)
            assert as_dict(examples) == {item: truth(ratings) for item, ratings in every.items()}


def test_a_spread_of_exactly_one_counts_as_wide():
    # Ten ratings around 3 with a sum of squared deviations of 9, so the sample deviation is 1.
    ratings = np.array([1.5, 4.5, 1.5, 4.5, 3, 3, 3, 3, 3, 3], np.float32)
    assert statistics.stdev(ratings.tolist()) == 1
    pair = np.concatenate([ratings, np.full(10, 3, np.float32)])
    items = np.repeat([0, 1], 10).astype(np.int32)
    edges = Edges(np.zeros(20, np.int32), items, pair)
    none = some_edges([])
    made, _ = consumer_tasks([make_step(0, edges, none), make_step(1, edges, none)])
    spread = next(task for task in made if task.name == "item_rating_spread")
    assert as_dict(spread.train) == {0: True, 1: False}


def make_step(index, train, validation):
    return Step(
        index=index,
        until=0.5,
        judged_until=0.6,
        n_users=3,
        n_items=2,
        n_known_users=3,
        n_known_items=2,
        train=train,
        validation=validation,
    )


def some_edges(ratings):
    count = len(ratings)
    return Edges(
        np.zeros(count, np.int32), np.zeros(count, np.int32), np.array(ratings, np.float32)
    )


def test_short_timelines_leave_out_what_they_cannot_judge(timeline):
    made, left_out = consumer_tasks(timeline[:2])
    assert [task.name for task in made] == ["edge_rating", "item_rating_mean", "item_rating_spread"]
    assert [(entry.task, entry.version) for entry in left_out] == [
        ("user_activity", None),
        ("positive_user_activity", None),
    ]
    assert "from version 2 on" in left_out[0].reason
    made, left_out = consumer_tasks(timeline[:1])
    assert made == []
    assert len(left_out) == len(TASKS)
    made, _ = consumer_tasks(timeline[:3])
    assert [list(task.judge) for task in made] == [[2], [2], [1, 2], [1, 2], [1, 2]]


def test_single_classes_are_left_out_with_the_reason():
    mixed, good = some_edges([5, 2]), some_edges([5, 5])
    made, left_out = consumer_tasks(
        [make_step(0, mixed, mixed), make_step(1, mixed, good), make_step(2, mixed, mixed)]
    )
    assert {task.name: list(task.judge) for task in made} == {
        "user_activity": [2],
        "positive_user_activity": [2],
        "edge_rating": [2],
    }
    assert {(entry.task, entry.version, entry.reason) for entry in left_out} == {
        ("edge_rating", 1, "all 2 labels are positive"),
        ("item_rating_mean", None, "for training, there are no examples"),
        ("item_rating_spread", None, "for training, there are no examples"),
    }
    _, left_out = consumer_tasks([make_step(0, mixed, mixed), make_step(1, mixed, good)])
    assert left_out[2].reason == "at every version it would be judged on, all 2 labels are positive"
    _, left_out = consumer_tasks([make_step(0, good, mixed), make_step(1, mixed, mixed)])
    assert left_out[2].reason == "for training, all 2 labels are positive"


def test_refuses_a_timeline_with_a_gap(timeline):
    with pytest.raises(UsageError, match=r"found steps \[0, 2\]"):
        consumer_tasks([timeline[0], timeline[2]])
    with pytest.raises(UsageError, match="step 0"):
        consumer_tasks([])


def test_examples_are_drawn_by_user_and_by_item_where_there_is_none():
    index, labels = np.arange(3), np.ones(3, np.bool_)
    assert Examples(index, index + 1, labels).units.index is index
    assert Examples(index, None, labels).units.kind == "user"
    of_items = Examples(None, index, labels).units
    assert (of_items.kind, of_items.index) == ("item", index)
    with pytest.raises(UsageError, match="users or of items"):
        assert Examples(None, None, labels).units
