"""The timeline: the edges that each version trains on and is evaluated on."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from backstay.datasets.dataset import Interactions
from backstay.errors import UsageError

SLICES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""T_0 … T_5 of the paper: versions 0…4 train up to T_i and are evaluated up to T_{i+1}."""


@dataclass(frozen=True)
class Edges:
    """Interactions as parallel arrays, in time order."""

    users: npt.NDArray[np.int32]  # (E,)
    items: npt.NDArray[np.int32]  # (E,)
    ratings: npt.NDArray[np.float32]  # (E,) of 5

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One slice of the timeline: a snapshot to train on, and the window that evaluates it.

    Users and items are counted as of the window's end, so the last `n_users - n_known_users`
    users are new in the window; new items have attributes and no training edge.
    """

    index: int
    until: float  # T_i: position on the timeline of the last training interaction
    judged_until: float  # T_{i+1}
    n_users: int
    n_items: int
    n_known_users: int  # users with index below this have appeared by T_i
    n_known_items: int
    train: Edges
    validation: Edges


def step(interactions: Interactions, index: int, until: float, judged_until: float) -> Step:
    """Split the interactions at two positions of the timeline.

    Interaction n of N stands at position n/(N-1). Training takes every edge up to `until`; and of
    each user who first appears after it, all edges of the window but the last (or the only one,
    where there is one). The rest of the window is for validation.
    """
    if not 0.0 < until <= judged_until <= 1.0:
        raise UsageError(
            "expected 0 < until <= end of the evaluation window <= 1, "
            f"found {until} and {judged_until}; positions are fractions of the interactions."
        )
    known, end = (_edges_up_to(position, len(interactions)) for position in (until, judged_until))
    users, items = interactions.users[:end], interactions.items[:end]
    n_users, n_items = (int(index_.max(initial=-1)) + 1 for index_ in (users, items))
    n_known_users = int(users[:known].max(initial=-1)) + 1
    n_known_items = int(items[:known].max(initial=-1)) + 1

    edges = np.arange(end)
    last = np.zeros(n_users, np.int64)
    last[users] = edges  # a later edge overwrites an earlier one
    new = users >= n_known_users
    several = np.bincount(users, minlength=n_users)[users] > 1
    held_out = new & several & (edges == last[users])
    validates = (edges >= known) & (~new | held_out)

    def take(mask: npt.NDArray[np.bool_]) -> Edges:
        return Edges(users[mask], items[mask], interactions.ratings[:end][mask])

    return Step(
        index=index,
        until=until,
        judged_until=judged_until,
        n_users=n_users,
        n_items=n_items,
        n_known_users=n_known_users,
        n_known_items=n_known_items,
        train=take(~validates),
        validation=take(validates),
    )


def steps(interactions: Interactions, slices: tuple[float, ...] = SLICES) -> list[Step]:
    """The steps between consecutive `slices`: one per version."""
    return [
        step(interactions, index, until, judged_until)
        for index, (until, judged_until) in enumerate(pairwise(slices))
    ]


def check_split(step: Step, interactions: Interactions) -> None:
    """Raise if a step leaks validation edges into training, counted again from its edges.

    An edge is a pair of user and item. A user may repeat an item, so each pair's count is compared
    with the most that is allowed: an edge in both training and validation is a leak if it happened
    once, and none if it happened twice. Takes O(E log E) for the E edges up to the window's end:
    about 0.4 s for 10⁶ of them.

    Raises:
        UsageError: an edge is used more often than it happened up to the window's end; training
            has an edge of a known user after `until`; or validation has an edge that is neither in
            a known user's window nor the last one of a new user.
    """
    known, end = (
        _edges_up_to(position, len(interactions)) for position in (step.until, step.judged_until)
    )
    users, happened = interactions.users[:end], _pairs(interactions.users, interactions.items)[:end]
    edges = np.arange(end)
    new = users > users[:known].max(initial=-1)
    last = np.zeros(int(users.max(initial=-1)) + 1, np.int64)
    last[users] = edges  # a later edge overwrites an earlier one
    may_train = (edges < known) | new
    may_validate = (edges >= known) & (~new | (edges == last[users]))
    train, validation = (_pairs(part.users, part.items) for part in (step.train, step.validation))
    for found, allowed, uses, reason in (
        (
            np.concatenate([train, validation]),
            happened,
            "training and validation together",
            f"its count up to {step.judged_until}",
        ),
        (
            train,
            happened[may_train],
            "training",
            f"of a user known at {step.until}, edges up to there are for training",
        ),
        (
            validation,
            happened[may_validate],
            "validation",
            f"of a user known at {step.until}, later edges validate; of a new one, the last",
        ),
    ):
        pair, count, most = _excess(found, allowed)
        if count > most:
            raise UsageError(
                f"step {step.index} leaks: expected the edge of user {pair >> 32} and item "
                f"{pair & 0xFFFFFFFF} at most {most} times in {uses} ({reason}), found it {count} "
                "times; split these interactions with `backstay.datasets.timeline.step`."
            )


def _edges_up_to(position: float, total: int) -> int:
    """How many of `total` interactions are at or before a position of the timeline."""
    positions = np.arange(total) / max(total - 1, 1)
    return int(np.searchsorted(positions, position, side="right"))


def _pairs(users: npt.NDArray[np.int32], items: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """One number per edge: user and item, 32 bits each."""
    return users.astype(np.int64) << 32 | items


def _excess(found: npt.NDArray[np.int64], allowed: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    """The first value found more often than allowed (else any), and both counts; zeros if empty."""
    if not len(found):
        return 0, 0, 0
    values, counts = np.unique(found, return_counts=True)
    allowed = np.sort(allowed)
    most = np.searchsorted(allowed, values, side="right") - np.searchsorted(allowed, values)
    first = int(np.argmax(counts > most))
    return int(values[first]), int(counts[first]), int(most[first])
