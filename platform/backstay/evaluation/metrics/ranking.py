"""The intended task: Recall@K of a step's validation items."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from backstay.datasets.timeline import Edges, Step
from backstay.errors import TrainingError, UsageError
from backstay.models.tensors import as_tensor

K = 50
"""The paper's cut-off."""

JUDGED_USERS = 20_000
"""Most users in an evaluation during a fit; the mean recall's standard error is below 0.003."""

BLOCK_SCORES = 1 << 24
"""Scores held at once: 64 MiB of float32, whatever the numbers of users and items."""


@dataclass(frozen=True)
class RecallResult:
    """Recall@K of every user with validation edges."""

    users: npt.NDArray[np.int64]  # (n,) user indices, ascending
    values: npt.NDArray[np.float64]  # (n,) each in [0, 1]
    k: int

    @cached_property
    def mean(self) -> float:
        """Recall@K of the step; NaN if no user has a validation edge."""
        return float(self.values.mean()) if len(self.values) else float("nan")


@dataclass(frozen=True)
class _Rows:
    """Distinct items of each judged user, as sparse rows."""

    indptr: npt.NDArray[np.int64]  # (n + 1,)
    rows: npt.NDArray[np.int64]  # (E,) position of the user among the judged users, ascending
    items: npt.NDArray[np.int64]  # (E,)

    @classmethod
    def of(cls, edges: Edges, users: npt.NDArray[np.int64], *, n_items: int) -> Self:
        position = np.searchsorted(users, edges.users)
        judged = position < len(users)
        judged[judged] = users[position[judged]] == edges.users[judged]
        keys = np.unique(position[judged] * n_items + edges.items[judged])
        rows, items = np.divmod(keys, n_items)
        return cls(np.searchsorted(rows, np.arange(len(users) + 1)), rows, items)


@dataclass(frozen=True)
class RankingTask:
    """The intended task of one step: indexed once, evaluated any number of times."""

    n_users: int
    n_items: int
    users: npt.NDArray[np.int64]  # (n,) the users with validation edges, ascending
    seen: _Rows  # their training items
    wanted: _Rows  # their validation items

    @classmethod
    def of(cls, step: Step, *, most_users: int | None = None) -> Self:
        """Index the edges of `step`, for all users or a fixed sample of at most `most_users`."""
        users = np.unique(step.validation.users).astype(np.int64)
        if most_users is not None and len(users) > most_users:
            users = np.sort(np.random.default_rng(0).choice(users, most_users, replace=False))
        seen, wanted = (
            _Rows.of(edges, users, n_items=step.n_items) for edges in (step.train, step.validation)
        )
        return cls(step.n_users, step.n_items, users, seen, wanted)

    def recall(
        self,
        users_z: torch.Tensor | npt.NDArray[np.float32],
        items_z: torch.Tensor | npt.NDArray[np.float32],
        *,
        k: int = K,
        block_scores: int = BLOCK_SCORES,
    ) -> RecallResult:
        """Rank all items by dot product for each judged user, and count the hits among the top k.

        `users_z` (n_users, D) and `items_z` (n_items, D) are float32 on one device. At most
        `block_scores` scores are held at once.

        The denominator is the number of a user's distinct validation items. A validation item that
        is also a training item is never a hit. Items that tie at rank k share the remaining places
        evenly, so the figure does not depend on item order or sorting algorithm.

        Raises:
            UsageError: the shapes do not fit this step's users and items.
            TrainingError: a vector is not finite.
        """
        users_z, items_z = as_tensor(users_z), as_tensor(items_z)
        self._check(users_z, items_z, k=k)
        device = items_z.device
        with torch.no_grad():
            queries = users_z[as_tensor(self.users).to(device)]
            catalogue = items_z.T
            seen_items = as_tensor(self.seen.items).to(device)
            seen_rows = as_tensor(self.seen.rows).to(device)
            wanted_items = as_tensor(self.wanted.items).to(device)
            wanted_rows = as_tensor(self.wanted.rows).to(device)
            hits = torch.zeros(len(wanted_items), dtype=torch.float64, device=device)
            block = max(1, min(block_scores // self.n_items, len(queries)))
            buffer = torch.empty((block, self.n_items), dtype=queries.dtype, device=device)
            for start in range(0, len(queries), block):
                stop = min(start + block, len(queries))
                scores = torch.mm(queries[start:stop], catalogue, out=buffer[: stop - start])
                seen = slice(self.seen.indptr[start], self.seen.indptr[stop])
                scores[seen_rows[seen] - start, seen_items[seen]] = -torch.inf
                wanted = slice(self.wanted.indptr[start], self.wanted.indptr[stop])
                hits[wanted] = _hits(scores, wanted_rows[wanted] - start, wanted_items[wanted], k=k)
        totals = np.bincount(self.wanted.rows, hits.cpu().numpy(), minlength=len(self.users))
        return RecallResult(self.users, totals / np.diff(self.wanted.indptr), k)

    def _check(self, users_z: torch.Tensor, items_z: torch.Tensor, *, k: int) -> None:
        if k < 1:
            raise UsageError(f"expected k of at least 1, found {k}.")
        found = (*users_z.shape, *items_z.shape)
        expected = (self.n_users, users_z.shape[-1], self.n_items, users_z.shape[-1])
        if found != expected:
            raise UsageError(
                f"expected vectors of {self.n_users} users and {self.n_items} items in one "
                f"dimension, found shapes {tuple(users_z.shape)} and {tuple(items_z.shape)}; "
                "pass the vectors of the step that this task indexes."
            )
        if not (torch.isfinite(users_z).all() and torch.isfinite(items_z).all()):
            raise TrainingError(
                "found vectors that are not finite: training has diverged; lower the learning "
                "rate or the compatibility weight."
            )


def _hits(scores: torch.Tensor, rows: torch.Tensor, items: torch.Tensor, *, k: int) -> torch.Tensor:
    """The share of each wanted (row, item) that is in the top k of its row: (E,) float64.

    `scores` is (block, n_items), -inf for items that are not candidates.
    """
    wanted = scores[rows, items]
    candidate = wanted > -torch.inf
    if k >= scores.shape[1]:
        return candidate.double()
    best = torch.topk(scores, k + 1, dim=1).values
    threshold = best[:, k - 1]
    share = torch.ones(len(scores), dtype=torch.float64, device=scores.device)
    tied = torch.nonzero((best[:, k] == threshold) & (threshold > -torch.inf)).squeeze(1)
    if len(tied):
        level = threshold[tied, None]
        places = k - (best[tied] > level).sum(dim=1)
        share[tied] = places / (scores[tied] == level).sum(dim=1).double()
    above = (wanted > threshold[rows]).double()
    level_with = (candidate & (wanted == threshold[rows])).double()
    return above + level_with * share[rows]


def recall_judge(step: Step) -> Callable[[torch.Tensor], RecallResult] | None:
    """A function from all vectors, users first, to the step's validation Recall@50.

    Uses a sample of at most `JUDGED_USERS` users, always the same ones. None if no user has a
    validation edge.
    """
    task = RankingTask.of(step, most_users=JUDGED_USERS)
    if not len(task.users):
        return None
    return lambda z: task.recall(z[: step.n_users], z[step.n_users :])


def recall_score(step: Step) -> Callable[[torch.Tensor], float] | None:
    """`recall_judge`, for the mean alone."""
    judge = recall_judge(step)
    return judge and (lambda z: judge(z).mean)
