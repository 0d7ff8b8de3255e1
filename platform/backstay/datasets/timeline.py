"""The timeline: what each version trains on and what it is judged on (design, section 2)."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from backstay.datasets.dataset import Interactions
from backstay.errors import UsageError

SLICES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""T_0 … T_5 of the paper: versions 0…4 train up to T_i and are judged up to T_{i+1}."""


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
    """One slice of the timeline: a snapshot to train on and the window that judges it.

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
    where there is one). The rest of the window validates.
    """
    if not 0.0 < until <= judged_until <= 1.0:
        raise UsageError(
            "expected 0 < until <= end of the judging window <= 1, "
            f"found {until} and {judged_until}; positions are fractions of the interactions."
        )
    total = len(interactions)
    positions = np.arange(total) / max(total - 1, 1)
    known = int(np.searchsorted(positions, until, side="right"))
    end = int(np.searchsorted(positions, judged_until, side="right"))
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
