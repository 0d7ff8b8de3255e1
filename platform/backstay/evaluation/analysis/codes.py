"""The decision on an update as codes and figures: what `decide` returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from backstay.evaluation.metrics.bootstrap import Interval

TOLERATED = 2.0
"""Percent of their ROC-AUC that old consumers may lose to an update."""

Code = Literal["ship", "do-not-ship", "undecided"]

Cause = Literal[
    "proven",  # a method gains, and its whole interval of losses is tolerated
    "no-gain",  # no method recommends significantly better than never updating
    "too-costly",  # every method that gains costs old consumers more than is tolerated
    "loss-uncertain",  # a method gains, and a part of its interval of losses is not tolerated
    "no-intervals",  # the results have no bootstrap replicates
    "nothing-to-compare",  # a baseline or every update method lacks a figure
]

_CODES: Mapping[Cause, Code] = {
    "proven": "ship",
    "no-gain": "do-not-ship",
    "too-costly": "do-not-ship",
    "loss-uncertain": "undecided",
    "no-intervals": "undecided",
    "nothing-to-compare": "undecided",
}

ReasonCode = Literal[
    "gain",  # figures: Recall@50 against fix-m0
    "gain-not-significant",  # figures: the same of the best method
    "recommends-worse",  # figures: the same of the best method; its interval is below zero
    "loss-tolerated",  # figures: ROC-AUC against fix-m0; hardest_hit
    "loss-uncertain",  # the same
    "loss-too-great",  # the same of the method that gains and costs least
    "compatibility-price",  # figures: Recall@50 against no-bc
    "without-compatibility",  # figures: ROC-AUC of no-bc against fix-m0; hardest_hit
    "better-sum-rejected",  # figures: sums of methods not chosen; losses: of those that gain
    "baseline-failed",  # methods: the baselines
    "baseline-missing",  # methods: the baselines
    "no-update-method",
    "no-replicates",
    "cells-failed",  # count; methods: those without a sum
    "keep-version",  # advice, without figures; so are the next two
    "weigh-compatibility",
    "measure-more",
]


@dataclass(frozen=True, kw_only=True)
class MethodFigure:
    """A percentage of one method."""

    method: str
    value: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class ConsumerLoss:
    """What one consumer loses by a method, in percent (below zero)."""

    method: str
    task: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A reason for the decision, or advice that follows from it; see `ReasonCode`."""

    code: ReasonCode
    figures: tuple[MethodFigure, ...] = ()
    losses: tuple[MethodFigure, ...] = ()
    hardest_hit: tuple[ConsumerLoss, ...] = ()
    methods: tuple[str, ...] = ()
    count: int = 0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether to ship the update."""

    cause: Cause
    leading: tuple[str, ...]  # the methods it rests on: several if they don't differ significantly
    reasons: tuple[Reason, ...]  # the most important first

    @property
    def code(self) -> Code:
        """The decision itself."""
        return _CODES[self.cause]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods to ship with; empty unless the decision is to ship."""
        return self.leading if self.code == "ship" else ()

    @property
    def ship(self) -> bool | None:
        """The decision as a truth value; None if undecided."""
        return None if self.code == "undecided" else self.code == "ship"
