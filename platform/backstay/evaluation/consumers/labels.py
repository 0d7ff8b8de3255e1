"""The five unintended tasks: their examples and true labels.

The window i→i+1 is the time between T_i and T_{i+1}, so its edges are the validation edges of
step i. A consumer trains on M_0's vectors of step 0, stops early on M_0's vectors of
`early_stop_step`, and is judged on version-0-compatible vectors of each step in `judge`:

    task                     trains on                      stops early on              judged on
    user_activity            step 0, window 0→1             step 1, window 1→2          steps 2 …
    positive_user_activity   the same
    edge_rating              training edges of step 0       validation edges of step 0  steps 1 …
    item_rating_mean         training edges of step 0       all edges of step 0         steps 1 …
    item_rating_spread       the same
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from backstay.datasets.timeline import Step
from backstay.errors import UsageError
from backstay.evaluation.metrics.bootstrap import Units

TaskName = Literal[
    "user_activity",
    "positive_user_activity",
    "edge_rating",
    "item_rating_mean",
    "item_rating_spread",
]
TASKS: tuple[TaskName, ...] = get_args(TaskName)

POSITIVE_RATING = 4.0
"""A rating of at least this, of 5, is positive."""

MIN_ITEM_RATINGS = 10
"""Items with fewer ratings are no examples: their mean and spread are not reliable."""

WIDE_SPREAD = 1.0
"""An item is a positive example of spread if its ratings' standard deviation is at least this."""


@dataclass(frozen=True)
class Examples:
    """Labelled inputs: row n is user `users[n]`, item `items[n]`, or the pair of both."""

    users: npt.NDArray[np.int64] | None  # (n,) indices of the step's users
    items: npt.NDArray[np.int64] | None  # (n,) indices of the step's items
    labels: npt.NDArray[np.bool_]  # (n,)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def units(self) -> Units:
        """The units that a bootstrap draws: users, or items if the examples have no user."""
        if self.users is not None:
            return Units("user", self.users)
        if self.items is not None:
            return Units("item", self.items)
        raise UsageError("expected examples of users or of items, found neither.")

    @property
    def defect(self) -> str | None:
        """Why ROC-AUC is undefined on these examples; None if it is defined."""
        positives = int(self.labels.sum())
        if 0 < positives < len(self):
            return None
        if not len(self):
            return "there are no examples"
        return f"all {len(self)} labels are {'positive' if positives else 'negative'}"


@dataclass(frozen=True, kw_only=True)
class ConsumerTask:
    """One unintended task along the timeline; every set of examples has both classes."""

    name: TaskName
    train: Examples  # of step 0
    early_stop: Examples  # of step `early_stop_step`
    early_stop_step: int
    judge: dict[int, Examples]  # version -> examples of its step; never empty


@dataclass(frozen=True)
class SkippedTask:
    """A task, or one version of it, whose ROC-AUC is undefined on these data."""

    task: TaskName
    version: int | None  # None: the whole task
    reason: str


def consumer_tasks(steps: Sequence[Step]) -> tuple[list[ConsumerTask], list[SkippedTask]]:
    """The unintended tasks of a timeline from step 0 on, and the skipped ones with the reason."""
    if [step.index for step in steps] != list(range(len(steps))) or not steps:
        raise UsageError(
            "expected the steps of a timeline from step 0 on, without gaps; "
            f"found steps {[step.index for step in steps]}."
        )
    tasks: list[ConsumerTask] = []
    skipped: list[SkippedTask] = []
    median = _median_mean(steps[0])
    for name in TASKS:
        task = _task(name, steps, skipped, median=median)
        if isinstance(task, str):
            skipped.append(SkippedTask(name, None, task))
        else:
            tasks.append(task)
    return tasks, skipped


def _task(
    name: TaskName, steps: Sequence[Step], skipped: list[SkippedTask], *, median: float
) -> ConsumerTask | str:
    """The task, or why it is skipped; versions with an undefined AUC go to `skipped`."""
    activity = name in ("user_activity", "positive_user_activity")
    early_stop_step = 1 if activity else 0
    if len(steps) < early_stop_step + 2:
        return (
            f"it is judged from version {early_stop_step + 1} on, "
            f"and the timeline has {len(steps)} version{'s' if len(steps) > 1 else ''}"
        )
    train = _examples(name, steps[0], judged=False, median=median)
    early_stop = _examples(name, steps[early_stop_step], judged=True, median=median)
    for use, found in (("training", train), ("early stopping", early_stop)):
        if found.defect:
            return f"for {use}, {found.defect}"
    judge: dict[int, Examples] = {}
    undefined: list[SkippedTask] = []
    for step in steps[early_stop_step + 1 :]:
        found = _examples(name, step, judged=True, median=median)
        if found.defect:
            undefined.append(SkippedTask(name, step.index, found.defect))
        else:
            judge[step.index] = found
    if not judge:
        return f"at every version it would be judged on, {undefined[0].reason}"
    skipped.extend(undefined)
    return ConsumerTask(
        name=name, train=train, early_stop=early_stop, early_stop_step=early_stop_step, judge=judge
    )


def _examples(name: TaskName, step: Step, *, judged: bool, median: float) -> Examples:
    """The examples of a step: for training, or for judging and early stopping (`judged`)."""
    match name:
        case "user_activity":
            return _active(step, rating=-np.inf)
        case "positive_user_activity":
            return _active(step, rating=POSITIVE_RATING)
        case "edge_rating":
            edges = step.validation if judged else step.train
            return Examples(
                edges.users.astype(np.int64),
                edges.items.astype(np.int64),
                edges.ratings >= POSITIVE_RATING,
            )
        case "item_rating_mean":
            items, ratings = _item_ratings(step, judged=judged)
            return Examples(None, items, ratings.mean >= median)
        case "item_rating_spread":
            items, ratings = _item_ratings(step, judged=judged)
            return Examples(None, items, ratings.is_spread)


def _active(step: Step, *, rating: float) -> Examples:
    """All users of the step; positive if a validation edge is rated at least `rating`."""
    labels = np.zeros(step.n_users, np.bool_)
    labels[step.validation.users[step.validation.ratings >= rating]] = True
    return Examples(np.arange(step.n_users), None, labels)


@dataclass(frozen=True)
class _Ratings:
    """Moments of the ratings of some items, float64: exact for ratings in steps of 0.5."""

    count: npt.NDArray[np.float64]
    total: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        return self.total / self.count

    @property
    def is_spread(self) -> npt.NDArray[np.bool_]:
        """Whether the sample standard deviation is at least WIDE_SPREAD.

        Compares n·Σr² − (Σr)² ≥ n(n − 1)·WIDE_SPREAD², without division or root. So rounding does
        not move ratings in steps of 0.5 that lie exactly on the threshold.
        """
        scatter = self.count * self.squares - self.total**2
        return np.asarray(scatter >= self.count * (self.count - 1) * WIDE_SPREAD**2)


def _item_ratings(step: Step, *, judged: bool) -> tuple[npt.NDArray[np.int64], _Ratings]:
    """Items with enough ratings, ascending, and the moments of their ratings.

    Uses training edges for training, and all edges of the step for judging.
    """
    parts = (step.train, step.validation) if judged else (step.train,)
    items = np.concatenate([part.items for part in parts])
    ratings = np.concatenate([part.ratings for part in parts]).astype(np.float64)
    count, total, squares = (
        np.bincount(items, weights, minlength=step.n_items).astype(np.float64)
        for weights in (np.ones_like(ratings), ratings, ratings**2)
    )
    enough = np.flatnonzero(count >= MIN_ITEM_RATINGS)
    return enough, _Ratings(count[enough], total[enough], squares[enough])


def _median_mean(first: Step) -> float:
    """The median of the items' mean ratings at version 0; NaN if no item has enough ratings."""
    items, ratings = _item_ratings(first, judged=False)
    return float(np.median(ratings.mean)) if len(items) else float("nan")
