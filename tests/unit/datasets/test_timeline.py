"""The protocol of the timeline, recomputed by slow loops."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.datasets.dataset import Dataset, Interactions
from backstay.datasets.ingest import ingest
from backstay.datasets.timeline import SLICES, Edges, check_split, step, steps
from backstay.errors import UsageError


def interactions(pairs) -> Interactions:
    """Edges in time order out of (user, item) names; the rating is the edge's number."""
    users, items = {}, {}
    edges = [
        (users.setdefault(user, len(users)), items.setdefault(item, len(items)))
        for user, item in pairs
    ]
    return Interactions(
        users=np.array([user for user, _ in edges], np.int32),
        items=np.array([item for _, item in edges], np.int32),
        ratings=np.arange(len(edges), dtype=np.float32),
        times=np.arange(len(edges), dtype=np.int64),
        user_ids=pa.array(list(users)),
        item_ids=pa.array(list(items)),
    )


def slow_split(users, until, judged_until):
    """Numbers of the training and of the validation edges, one edge at a time."""
    last = max(len(users) - 1, 1)
    before = [n for n in range(len(users)) if n / last <= until]
    window = [n for n in range(len(users)) if until < n / last <= judged_until]
    known = {users[n] for n in before}
    train, validation = list(before), []
    for n in window:
        if users[n] in known:
            validation.append(n)
            continue
        of_user = [other for other in window if users[other] == users[n]]
        (validation if len(of_user) > 1 and n == of_user[-1] else train).append(n)
    return train, validation


def check(data: Interactions, until, judged_until) -> None:
    got = step(data, 0, until, judged_until)
    check_split(got, data)
    train, validation = slow_split(data.users.tolist(), until, judged_until)
    for edges, numbers in ((got.train, train), (got.validation, validation)):
        assert edges.users.tolist() == data.users[numbers].tolist()
        assert edges.items.tolist() == data.items[numbers].tolist()
        assert edges.ratings.tolist() == data.ratings[numbers].tolist()
    last = max(len(data) - 1, 1)
    known = [n for n in range(len(data)) if n / last <= until]
    seen = [n for n in range(len(data)) if n / last <= judged_until]
    assert got.n_known_users == len({int(data.users[n]) for n in known})
    assert got.n_known_items == len({int(data.items[n]) for n in known})
    assert got.n_users == len({int(data.users[n]) for n in seen})
    assert got.n_items == len({int(data.items[n]) for n in seen})


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40),
    cuts=st.lists(st.sampled_from([0.1, 0.5, 0.6, 0.9, 1.0]), min_size=2, max_size=2),
)
def test_a_step_is_that_of_the_slow_loops(pairs, cuts):
    check(interactions(pairs), *sorted(cuts))


def test_planted_new_users_and_items():
    pairs = [
        *[("old", "film")] * 6,  # edges 0…5: positions up to 0.5 of 11
        ("once", "film"),  # new with one edge: trains
        ("often", "film"),  # new with three: the first two train, the last validates
        ("old", "fresh"),  # of a known user, on an item new in the window: validates
        ("often", "film"),
        ("often", "fresh"),
    ]
    got = step(interactions(pairs), 0, 0.5, 1.0)
    assert got.train.ratings.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    assert got.validation.ratings.tolist() == [8, 10]
    assert (got.n_known_users, got.n_users) == (1, 3)
    assert (got.n_known_items, got.n_items) == (1, 2)
    assert 1 not in got.train.items  # the new item has no training edge


def test_an_edge_exactly_at_a_cut_is_before_it():
    data = interactions([(n, "film") for n in range(11)])  # positions 0.0, 0.1 … 1.0
    for n, (until, judged_until) in enumerate(pairwise(SLICES)):
        got = step(data, n, until, judged_until)
        assert got.n_known_users == int(Fraction(str(until)) * 10) + 1
        assert got.n_users == int(Fraction(str(judged_until)) * 10) + 1


def test_the_slices_follow_each_other():
    data = interactions([(n % 7, n % 5) for n in range(100)])
    got = steps(data)
    assert [(one.index, one.until, one.judged_until) for one in got] == [
        (0, 0.5, 0.6),
        (1, 0.6, 0.7),
        (2, 0.7, 0.8),
        (3, 0.8, 0.9),
        (4, 0.9, 1.0),
    ]
    assert len(got[-1].train) + len(got[-1].validation) == 100


PLANTED = [
    ("old", "film"),  # edges 0…4: positions up to 0.5 of 9
    ("old", "film"),
    ("older", "film"),
    ("older", "book"),
    ("old", "song"),
    ("old", "film"),  # again: validates, and the same pair trains twice
    ("new", "film"),  # trains
    ("older", "song"),  # validates
    ("new", "book"),  # the new user's last one up to 0.9: validates
    ("new", "song"),  # later than 0.9
]


def planted():
    """A split, the interactions it is of, and their users and items by name."""
    data = interactions(PLANTED)
    got = step(data, 1, 0.5, 0.9)
    assert got.train.ratings.tolist() == [0, 1, 2, 3, 4, 6]
    assert got.validation.ratings.tolist() == [5, 7, 8]
    return got, data


def with_edges(edges, data, *numbers):
    """The edges and those of the interactions that have the numbers."""
    rows = list(numbers)
    return Edges(
        np.append(edges.users, data.users[rows]),
        np.append(edges.items, data.items[rows]),
        np.append(edges.ratings, data.ratings[rows]),
    )


def without_edge(edges, number):
    rows = edges.ratings != number
    return Edges(edges.users[rows], edges.items[rows], edges.ratings[rows])


def test_a_validation_edge_in_training_is_a_leak():
    split, data = planted()
    check_split(split, data)
    for number in (5, 7, 8):  # of a known user who repeats itself, of a known and of a new user
        leak = replace(split, train=with_edges(split.train, data, number))
        with pytest.raises(UsageError, match=r"leaks: .*training and validation together") as told:
            check_split(leak, data)
        user, item = data.users[number], data.items[number]
        assert f"edge of user {user} and item {item} " in str(told.value)
    with pytest.raises(UsageError, match=r"user 0 and item 0 at most 3 times .* found it 4"):
        check_split(replace(split, train=with_edges(split.train, data, 5)), data)


def test_a_window_edge_of_a_known_user_in_training_is_a_leak():
    split, data = planted()
    for number in (5, 7):
        moved = replace(
            split,
            train=with_edges(split.train, data, number),
            validation=without_edge(split.validation, number),
        )
        with pytest.raises(UsageError, match=r"in training \(of a user known at 0.5"):
            check_split(moved, data)


def test_an_edge_from_after_the_window_is_a_leak():
    split, data = planted()
    for part in ("train", "validation"):
        later = replace(split, **{part: with_edges(getattr(split, part), data, 9)})
        with pytest.raises(
            UsageError, match=r"at most 0 times .*its count up to 0.9\), found it 1"
        ):
            check_split(later, data)


def test_validation_is_the_window_and_of_a_new_user_the_last_edge():
    split, data = planted()
    past = replace(
        split,
        train=without_edge(split.train, 3),
        validation=with_edges(split.validation, data, 3),
    )
    swapped = replace(
        split,
        train=with_edges(without_edge(split.train, 6), data, 8),
        validation=with_edges(without_edge(split.validation, 8), data, 6),
    )
    for leak in (past, swapped):
        with pytest.raises(UsageError, match=r"in validation \(of a user known at 0.5"):
            check_split(leak, data)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40),
    cuts=st.lists(st.sampled_from([0.1, 0.5, 0.6, 0.9, 1.0]), min_size=2, max_size=2),
    data=st.data(),
)
def test_every_split_passes_and_no_validation_edge_may_train_as_well(pairs, cuts, data):
    history = interactions(pairs)
    split = step(history, 0, *sorted(cuts))
    check_split(split, history)
    if len(split.validation):
        number = int(data.draw(st.sampled_from(split.validation.ratings.tolist())))
        with pytest.raises(UsageError, match="leaks"):
            check_split(replace(split, train=with_edges(split.train, history, number)), history)


@pytest.mark.parametrize("cuts", [(0.0, 0.5), (0.6, 0.5), (0.5, 1.1), (float("nan"), 1.0)])
def test_cuts_off_the_timeline_are_refused(cuts):
    with pytest.raises(UsageError, match="expected 0 < until"):
        step(interactions([(0, 0)]), 0, *cuts)


@pytest.mark.parametrize(
    ("name", "format_", "size"),
    [
        ("ml-100k", "recbole", (943, 1_682)),
        ("movietweetings-100k", "movietweetings", (16_554, 10_506)),
    ],
)
def test_real_data_follows_the_protocol(name, format_, size, test_data, tmp_path):
    users, films = size
    info = ingest([test_data / name], format=format_, out=tmp_path / "out")
    counts = {key: info.counts[key] for key in ("interactions", "users", "items")}
    assert counts == {"interactions": 100_000, "users": users, "items": films}
    assert (info.skipped, info.counts["items_without_attributes"]) == ({}, 0)
    data = Dataset.open(tmp_path / "out").interactions()
    assert (np.diff(data.times) >= 0).all()
    for one in steps(data):
        check_split(one, data)
        train, validation = fast_loops(data.users.tolist(), one.until, one.judged_until)
        assert one.train.users.tolist() == data.users[train].tolist()
        assert one.train.items.tolist() == data.items[train].tolist()
        assert one.validation.users.tolist() == data.users[validation].tolist()
        assert one.validation.ratings.tolist() == data.ratings[validation].tolist()
    assert (one.n_users, one.n_items) == (users, films)


def fast_loops(users, until, judged_until):
    """`slow_split` with the edges of new users collected beforehand."""
    last = len(users) - 1
    known, of_new, train, validation = set(), {}, [], []
    for n, user in enumerate(users):
        if n / last <= until:
            known.add(user)
            train.append(n)
        elif n / last <= judged_until:
            if user in known:
                validation.append(n)
            else:
                of_new.setdefault(user, []).append(n)
    for edges in of_new.values():
        train += edges[:-1] if len(edges) > 1 else edges
        validation += edges[-1:] if len(edges) > 1 else []
    return sorted(train), sorted(validation)
