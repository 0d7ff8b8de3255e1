"""The built-in marketplace: seeded, streamed, growing, drifting, learnable, and like real data."""

import dataclasses
import tracemalloc
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from backstay.datasets import marketplace_traffic
from backstay.datasets.dataset import Dataset, Interactions
from backstay.datasets.marketplace import (
    MarketplaceConfig,
    generate,
    interaction_batches,
    item_batches,
)
from backstay.datasets.timeline import SLICES, steps
from backstay.errors import UsageError
from backstay.evaluation.consumers.labels import consumer_tasks


def rows(config):
    return pa.Table.from_batches(interaction_batches(config)).to_pandas()


def described(config):
    return pa.Table.from_batches(item_batches(config)).to_pandas()


def indexed(frame):
    users, user_ids = pd.factorize(frame["user_id"])
    items, item_ids = pd.factorize(frame["item_id"])
    return Interactions(
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        ratings=frame["rating"].to_numpy(np.float32),
        times=frame["timestamp"].to_numpy(np.int64),
        user_ids=pa.array(user_ids),
        item_ids=pa.array(item_ids, pa.string()),
    )


@pytest.fixture(scope="module")
def default():
    return rows(MarketplaceConfig())


# Configuration


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("interactions", 1_999),
        ("interactions", 50_000_001),
        ("users", 20),
        ("users", 8_000),
        ("items", 99),
        ("items", 8_000),
        ("seed", -1),
        ("days", 0),
        ("acceleration", 0.0),
        ("item_growth", 0.95),
        ("drift", -0.1),
        ("taste", float("nan")),
        ("explained", 1.5),
        ("popularity", 4.0),
        ("activity", -1.0),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(UsageError, match=f"^{field} must .* found"):
        MarketplaceConfig(**{field: value})


@pytest.mark.parametrize("interactions", [2_000, 2_001, 20_000])
def test_there_are_as_many_interactions_and_users_as_asked_for(interactions):
    config = MarketplaceConfig(interactions=interactions)
    frame = rows(config)
    assert len(frame) == interactions
    assert sorted(frame["user_id"].unique()) == list(range(config.n_users))
    assert frame["item_id"].nunique() > 0.9 * config.n_items
    assert len(described(config)) == config.n_items


@pytest.mark.parametrize(
    "character",
    [
        {"users": 1_600, "items": 100},
        {"users": 5_000, "items": 5_000},
        {"popularity": 3.0, "activity": 3.0, "item_growth": 0.9},
        {"popularity": 0.0, "activity": 0.0, "item_growth": 0.0, "taste": 0.0, "drift": 0.0},
        {"explained": 0.0, "taste": 10.0, "drift": 2.0},
        {"explained": 1.0, "days": 1, "acceleration": 1.0},
    ],
)
def test_an_extreme_marketplace_still_is_one(character):
    frame = rows(MarketplaceConfig(interactions=20_000, **character))
    assert len(frame) == 20_000
    assert not frame.duplicated(["user_id", "item_id"]).any()
    assert frame["timestamp"].is_monotonic_increasing


# The same again, in a stream


def test_the_same_configuration_gives_the_same_bytes_and_another_seed_gives_others(tmp_path):
    config = MarketplaceConfig(interactions=5_000)
    infos = [
        generate(each, tmp_path / name)
        for name, each in {
            "once": config,
            "again": dataclasses.replace(config),
            "other": dataclasses.replace(config, seed=1),
        }.items()
    ]
    assert infos[0] == infos[1]
    assert infos[0].fingerprint != infos[2].fingerprint
    for name in ("interactions.parquet", "items.parquet", "dataset.json"):
        once, again = ((tmp_path / run / name).read_bytes() for run in ("once", "again"))
        assert once == again


def test_a_generated_dataset_opens_with_what_was_generated(tmp_path):
    config = MarketplaceConfig(interactions=5_000)
    generate(config, tmp_path / "market")
    dataset = Dataset.open(tmp_path / "market")
    assert dataset.info.counts["interactions"] == 5_000
    assert dataset.info.counts["users"] == config.n_users
    assert dataset.info.skipped == {}
    interactions = dataset.interactions()
    frame = rows(config)
    assert interactions.user_ids.take(pa.array(interactions.users)).equals(
        pa.array(frame["user_id"])
    )
    assert interactions.times.tolist() == frame["timestamp"].tolist()
    kinds = {kind.name: kind for kind in dataset.attributes(interactions.item_ids).kinds}
    assert set(kinds) == {"category", "brand", "price_band", "style"}
    assert (np.diff(kinds["category"].rows.starts) == 2).all()  # department and leaf
    assert (np.diff(kinds["brand"].rows.starts) == 1).all()
    assert len(set(np.diff(kinds["style"].rows.starts))) > 2  # more words for some


def test_batches_follow_each_other_in_time():
    last = 0
    batches = list(interaction_batches(MarketplaceConfig(interactions=20_000)))
    assert len(batches) >= 100
    for batch in batches:
        times = batch["timestamp"].to_numpy()
        assert times[0] >= last
        assert (np.diff(times) >= 0).all()
        last = times[-1]


def test_memory_does_not_grow_with_the_interactions(monkeypatch):
    monkeypatch.setattr(marketplace_traffic, "BLOCK", 100)

    def peak(interactions):
        config = MarketplaceConfig(interactions=interactions, users=1_000, items=500)
        tracemalloc.start()
        for _ in interaction_batches(config):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(8_000)  # what is imported on first use is imported
    small, large = peak(10_000), peak(40_000)
    row = 8 + 8 + 4 + 8  # bytes of an interaction
    # A byte an interaction is the table of what has been taken; the rest is chance.
    assert large - small < 30_000 * row / 10


# Like a marketplace


def test_nobody_takes_an_item_twice(default):
    assert not default.duplicated(["user_id", "item_id"]).any()


def test_the_mode_is_four_stars_and_all_five_occur(default):
    shares = default["rating"].value_counts(normalize=True)
    assert shares.index[0] == 4.0
    assert sorted(shares.index) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert 3.5 <= default["rating"].mean() <= 4.2


def test_users_join_and_items_launch_and_values_are_born_in_every_slice(default):
    items = described(MarketplaceConfig()).set_index("item_id")
    cuts = [round(t * len(default)) for t in SLICES]
    seen = {kind: set() for kind in ("user_id", "item_id", "brand", "style")}
    for start, end in pairwise([0, *cuts]):
        window = default.iloc[start:end]
        attributes = items.loc[window["item_id"].unique()]
        now = {kind: set(window[kind]) for kind in ("user_id", "item_id")}
        now |= {kind: set(attributes[kind].explode().dropna()) for kind in ("brand", "style")}
        for kind, values in now.items():
            assert values - seen[kind], (kind, start, end)
            seen[kind] |= values


def test_the_users_of_a_window_come_back_likelier_than_others_but_not_for_sure(default):
    """Who was active says something about who will be: activity is predictable to a degree."""
    before, now, after = (
        set(default["user_id"][default.index // 3_000 == window]) for window in (5, 6, 7)
    )
    regular, lapsed = now, before - now
    return_rate = len(regular & after) / len(regular)
    assert return_rate > 1.3 * len(lapsed & after) / len(lapsed)
    assert 0.15 < return_rate < 0.85


@pytest.mark.parametrize("interactions", [20_000, 30_000, 300_000])
def test_every_consumer_has_both_labels(interactions):
    timeline = steps(indexed(rows(MarketplaceConfig(interactions=interactions))))
    tasks, left_out = consumer_tasks(timeline)
    assert left_out == []
    assert len(tasks) == 5
    for task in tasks:
        for examples in (task.train, task.early_stop, *task.judge.values()):
            assert 0.15 < examples.labels.mean() < 0.85, task.name


# Learnable, and ageing


def similarities(seen):
    """Cosine between items by the users they share, (items, items); few shared count for less."""
    shared = seen.T @ seen
    sizes = np.sqrt(np.diag(shared)) + 1e-9
    cosine = shared / np.outer(sizes, sizes) * shared / (shared + 5)
    np.fill_diagonal(cosine, 0)
    return cosine


def recall(scores, seen, wanted, *, k=50):
    judged = (wanted.sum(axis=1) > 0) & (seen.sum(axis=1) > 0)
    scores = np.where(seen[judged] > 0, -np.inf, scores[judged])
    top = np.argpartition(-scores, k, axis=1)[:, :k]
    hits = np.take_along_axis(wanted[judged], top, axis=1).sum(axis=1)
    return (hits / wanted[judged].sum(axis=1)).mean()


def matrix(step, edges, *, last=None):
    """Who has taken what among the last edges, or all of them: (users, items) of 0 and 1."""
    start = len(edges) - (last or len(edges))
    taken = np.zeros((step.n_users, step.n_items), np.float32)
    taken[edges.users[start:], edges.items[start:]] = 1
    return taken


def test_neighbours_beat_popularity(default):
    for step in steps(indexed(default)):
        seen, wanted = matrix(step, step.train), matrix(step, step.validation)
        popularity = np.broadcast_to(seen.sum(axis=0), seen.shape)
        neighbours = recall(seen @ similarities(seen), seen, wanted)
        assert neighbours > 1.3 * recall(popularity, seen, wanted)


def losses(config):
    """What item neighbours of the first half lose against those of as many newest edges, per slice.

    Both are asked for items of the first half only, from all that users have taken of those by
    then: what differs is the age of what is known of the items, not its amount, nor the question.
    """
    timeline = steps(indexed(rows(config)))
    edges = len(timeline[0].train)
    first = matrix(timeline[0], timeline[0].train)
    items = np.flatnonzero(first.sum(axis=0))
    old = similarities(first[:, items])
    for step in timeline:
        seen = matrix(step, step.train)[:, items]
        wanted = matrix(step, step.validation)[:, items]
        new = similarities(matrix(step, step.train, last=edges)[:, items])
        stale, fresh = (recall(seen @ known, seen, wanted) for known in (old, new))
        yield 1 - stale / fresh


def test_what_was_learned_ages_and_the_drift_is_why():
    drifting, still = (
        np.mean(
            [list(losses(MarketplaceConfig(drift=drift, seed=seed))) for seed in range(3)],
            axis=0,
        )
        for drift in (1.0, 0.0)
    )
    assert drifting[0] == 0  # the same edges
    assert drifting[3:].mean() > drifting[1:3].mean() > drifting[1] > 0.1
    assert drifting[3:].mean() > 0.15
    assert still[3:].mean() < 0.05


# Like the real data sets

COLUMNS = ["user_id", "item_id", "rating", "timestamp"]


@pytest.fixture(scope="module")
def real_data(test_data):
    movielens = pd.read_csv(test_data / "ml-100k" / "ml-100k.inter", sep="\t")
    tweets = pd.read_csv(  # fields between two colons each
        test_data / "movietweetings-100k" / "ratings.dat",
        sep=":",
        header=None,
        usecols=[0, 2, 4, 6],
    )
    tweets[4] /= 2
    return [
        frame.set_axis(COLUMNS, axis=1).sort_values("timestamp", kind="stable")
        for frame in (movielens, tweets)
    ]


@pytest.fixture(scope="module")
def market():
    return rows(MarketplaceConfig(interactions=100_000))


def share_of_top(counts, share):
    counts = np.sort(counts)[::-1]
    return counts[: round(share * len(counts))].sum() / counts.sum()


def gini(counts):
    lorenz = np.cumsum(np.sort(counts)) / counts.sum()
    return 1 - 2 * lorenz.mean() + 1 / len(counts)


def rank_slope(counts):
    """Slope of log count over log rank, over the top fifth."""
    counts = np.sort(counts)[::-1][: len(counts) // 5]
    return np.polyfit(np.log(np.arange(1, len(counts) + 1)), np.log(counts), 1)[0]


def new_share(frame, column):
    """Of those who occur in a slice, the share that never did before: one per slice."""
    first = ~frame[column].duplicated().to_numpy()
    cuts = [round(t * len(frame)) for t in SLICES]
    return np.array(
        [
            first[start:end].sum() / frame[column].iloc[start:end].nunique()
            for start, end in pairwise(cuts)
        ]
    )


def statistics(frame):
    found = {}
    for column in ("user_id", "item_id"):
        counts = frame[column].value_counts().to_numpy()
        found |= {
            f"{column} top 1 %": share_of_top(counts, 0.01),
            f"{column} top 10 %": share_of_top(counts, 0.1),
            f"{column} Gini": gini(counts),
            f"{column} slope": rank_slope(counts),
        }
    ratings = frame.groupby("item_id")["rating"].agg(["mean", "std", "count"]).query("count >= 10")
    found |= {
        "mean rating": frame["rating"].mean(),
        "rating deviation": frame["rating"].std(),
        "positive": (frame["rating"] >= 4).mean(),
        "item deviation, median": ratings["std"].median(),
        "item deviation, share >= 1": (ratings["std"] >= 1).mean(),
        "item mean, deviation": ratings["mean"].std(),
        "new users": new_share(frame, "user_id").mean(),
        "new items": new_share(frame, "item_id").mean(),
    }
    return found


def histogram(frame):
    """Shares of 1 … 5 stars; half stars count half to either side."""
    ratings = frame["rating"].to_numpy()
    stars = np.clip([np.floor(ratings), np.ceil(ratings)], 1, 5).astype(int)
    return np.bincount(stars.ravel(), minlength=6)[1:] / stars.size


def test_its_statistics_lie_in_the_range_of_real_ones(market, real_data):
    """At the size of the real sets, which differ widely: one dense and visited once, one sparse.

    The marketplace is to be between them, or outside by no more than a quarter of the distance
    between them, so that it is nearer to one than they are to each other; and where they happen
    to agree, by no more than a tenth.
    """
    market = statistics(market)
    real = pd.DataFrame([statistics(frame) for frame in real_data])
    slack = np.maximum(0.25 * (real.max() - real.min()), 0.1 * real.abs().max())
    outside = {
        name: (round(value, 3), real[name].round(3).tolist())
        for name, value in market.items()
        if not real[name].min() - slack[name] <= value <= real[name].max() + slack[name]
    }
    assert outside == {}


def test_its_ratings_are_as_near_to_real_ones_as_those_are_to_each_other(market, real_data):
    market = histogram(market)
    movielens, tweets = (histogram(frame) for frame in real_data)

    def distance(left, right):  # total variation
        return np.abs(left - right).sum() / 2

    between = distance(movielens, tweets)
    assert distance(market, movielens) < between
    assert distance(market, tweets) < between


def test_new_users_come_in_every_slice_as_in_the_real_sets(market, real_data):
    """In each slice within the range of all slices of both sets."""
    market = new_share(market, "user_id")
    real = np.array([new_share(frame, "user_id") for frame in real_data])
    assert (market >= real.min()).all()
    assert (market <= real.max()).all()
