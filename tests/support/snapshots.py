"""Small snapshots to learn from."""

import numpy as np
import pyarrow as pa

from backstay.datasets.csr import Csr
from backstay.datasets.dataset import AttributeKind, Attributes
from backstay.datasets.timeline import Edges, Step


def edges_of(pairs):
    users, items = np.array(pairs, np.int32).reshape(-1, 2).T
    return Edges(users.copy(), items.copy(), np.full(len(users), 4, np.float32))


def step_of(train, *, n_users, n_items, validation=()):
    return Step(
        index=0,
        until=0.5,
        judged_until=0.6,
        n_users=n_users,
        n_items=n_items,
        n_known_users=n_users,
        n_known_items=n_items,
        train=edges_of(train),
        validation=edges_of(validation),
    )


def kind_of(name, rows, *, values):
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    columns = np.array([value for row in rows for value in row], np.int32)
    return AttributeKind(name, tuple(f"{name}-{n}" for n in range(values)), Csr(starts, columns))


def ids_of(n_items):
    return pa.array([f"item-{n}" for n in range(n_items)])


def random_snapshot(seed=0, *, n_users=12, n_items=9, edges=40, values=(5, 7)):
    """Edges with repetitions, a user and an item without any, items with 0 to 3 attributes."""
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.integers(n_users - 1, size=edges), rng.integers(n_items - 1, size=edges)])
    train = np.concatenate([pairs.T, pairs.T[:3]])
    kinds = tuple(
        kind_of(
            f"kind{n}",
            [rng.choice(count, rng.integers(4), replace=False) for _ in range(n_items)],
            values=count,
        )
        for n, count in enumerate(values)
    )
    return step_of(train, n_users=n_users, n_items=n_items), Attributes(kinds, ids_of(n_items))


def planted_snapshot(seed=0, *, groups=4, users=10, items=6):
    """Users like the items of their own group, which share an attribute; one edge in four is
    kept to validate with."""
    rng = np.random.default_rng(seed)
    pairs = [
        (user, item)
        for user in range(groups * users)
        for item in range(groups * items)
        if user % groups == item % groups
    ]
    held_out = rng.random(len(pairs)) < 0.25
    step = step_of(
        [pair for pair, held in zip(pairs, held_out, strict=True) if not held],
        n_users=groups * users,
        n_items=groups * items,
        validation=[pair for pair, held in zip(pairs, held_out, strict=True) if held],
    )
    group = kind_of("group", [[item % groups] for item in range(groups * items)], values=groups)
    own = kind_of("item", [[item] for item in range(groups * items)], values=groups * items)
    return step, Attributes((group, own), ids_of(groups * items))
