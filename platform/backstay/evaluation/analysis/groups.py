"""The order of methods by the sum of both costs, as far as differences are significant."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Self

from backstay.evaluation.analysis.significance import Figure, Pair
from backstay.evaluation.comparison.results import Summary

SUM: Figure = "total_pct"


@dataclass(frozen=True)
class Order:
    """Sums of methods, and which differences between them are significant."""

    totals: dict[str, float]  # by method, in the order of the comparison table
    better: frozenset[tuple[str, str]]  # (better, worse)

    @classmethod
    def of(cls, summary: Sequence[Summary], pairs: Sequence[Pair]) -> Self:
        """The order of the methods that have a sum."""
        return cls(
            {row.method: row.total_pct for row in summary if row.total_pct is not None},
            frozenset(
                (pair.first, pair.second) if pair.difference > 0 else (pair.second, pair.first)
                for pair in pairs
                if pair.figure == SUM and pair.significant
            ),
        )

    def is_better(self, method: str, other: str) -> bool:
        """`method` has the better sum, significantly."""
        return (method, other) in self.better

    def differ(self, method: str, other: str) -> bool:
        """The two sums differ significantly."""
        return self.is_better(method, other) or self.is_better(other, method)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Methods that the run can't put in one order."""

    methods: tuple[str, ...]  # in the order of the comparison table, which is no ranking
    apart: tuple[tuple[str, str], ...] = ()  # pairs that differ significantly, the better first

    @property
    def alike(self) -> bool:
        """The group has several methods, and no two of them differ significantly."""
        return len(self.methods) > 1 and not self.apart


def groups(order: Order) -> tuple[Group, ...]:
    """The methods that have a sum, in groups, the best group first.

    Two groups are separate only if every method of the better one is significantly better than
    every method of the other.
    """
    ranked = sorted(order.totals, key=lambda method: -order.totals[method])
    cuts = [
        place
        for place in range(1, len(ranked))
        if all(
            order.is_better(ours, theirs) for ours in ranked[:place] for theirs in ranked[place:]
        )
    ]
    parts = [ranked[start:stop] for start, stop in pairwise([0, *cuts, len(ranked)])]
    return tuple(
        Group(
            methods=tuple(method for method in order.totals if method in part),
            apart=tuple(pair for pair in combinations(part, 2) if order.is_better(*pair)),
        )
        for part in parts
        if part
    )
