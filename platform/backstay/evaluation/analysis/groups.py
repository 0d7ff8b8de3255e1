"""Who is ahead of whom in the sum of both costs, as far as the run can tell."""

from dataclasses import dataclass
from itertools import combinations, pairwise

from backstay.evaluation.analysis.significance import Figure, pairs
from backstay.evaluation.comparison.results import Results

SUM: Figure = "total_pct"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Methods that the run doesn't put in order."""

    methods: tuple[str, ...]  # in the order of the comparison table: not a ranking
    apart: tuple[tuple[str, str], ...] = ()  # pairs of them that are told apart, the better first

    @property
    def alike(self) -> bool:
        """No two of several can be told apart."""
        return len(self.methods) > 1 and not self.apart


class Order:
    """Which methods are told apart in the sum."""

    def __init__(self, results: Results) -> None:
        self.totals = {
            row.method: row.total_pct for row in results.summary if row.total_pct is not None
        }
        self.ahead = {
            (pair.first, pair.second) if pair.difference > 0 else (pair.second, pair.first)
            for pair in pairs(results)
            if pair.figure == SUM and pair.told_apart
        }

    def is_ahead(self, method: str, other: str) -> bool:
        """`method` has the better sum, beyond noise."""
        return (method, other) in self.ahead

    def told_apart(self, method: str, other: str) -> bool:
        """Their sums differ beyond noise."""
        return self.is_ahead(method, other) or self.is_ahead(other, method)


def groups(results: Results) -> tuple[Group, ...]:
    """The methods that have a sum, the best group first.

    Two groups are separated only where every method of the better one is told apart from every
    method of the other; what can't be separated that way stands in one group.
    """
    order = Order(results)
    ranked = sorted(order.totals, key=lambda method: -order.totals[method])
    cuts = [
        place
        for place in range(1, len(ranked))
        if all(order.is_ahead(ours, theirs) for ours in ranked[:place] for theirs in ranked[place:])
    ]
    bounds = [0, *cuts, len(ranked)]
    made = []
    for start, stop in pairwise(bounds):
        part = ranked[start:stop]
        apart = [pair for pair in combinations(part, 2) if order.is_ahead(*pair)]
        made.append(
            Group(
                methods=tuple(method for method in order.totals if method in part),
                apart=tuple(apart),
            )
        )
    return tuple(group for group in made if group.methods)
