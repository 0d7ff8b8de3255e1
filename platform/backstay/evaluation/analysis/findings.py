"""`Analysis`: everything that reports show of a comparison, computed once."""

from dataclasses import dataclass
from typing import Self

from backstay.evaluation.analysis.by_consumer import (
    ConsumerFigures,
    consumer_costs,
    consumer_figures,
)
from backstay.evaluation.analysis.by_version import ByVersion, VersionFigures
from backstay.evaluation.analysis.codes import Decision
from backstay.evaluation.analysis.compatibility import (
    Compatibility,
    MapFigure,
    chain_figures,
    compatibility,
    distances_by_slice,
)
from backstay.evaluation.analysis.decision import decide
from backstay.evaluation.analysis.groups import Group, Order, groups
from backstay.evaluation.analysis.significance import Pair, pairs
from backstay.evaluation.analysis.summary import ByTask, comparable, incomplete, pareto_front
from backstay.evaluation.comparison.results import Results, Summary


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What the results of a comparison mean, as figures and codes.

    A method is incomplete if it has no sum because one of its cells failed. `consumers` and
    `distances` leave incomplete methods out, since their means would cover fewer cells.
    """

    results: Results
    table: tuple[Summary, ...]  # one row per method; means that can't be compared are None
    incomplete: frozenset[str]
    pairs: tuple[Pair, ...]
    groups: tuple[Group, ...]
    front: tuple[str, ...]  # methods that no other method beats on both sides
    decision: Decision
    by_version: VersionFigures
    consumers: ConsumerFigures
    consumer_costs: ByTask  # percent above fix-m0, incomplete methods too
    distances: ByTask  # alignment error by method and slice of entities
    compatibility: dict[str, Compatibility]  # by method
    chain: dict[MapFigure, dict[str, ByVersion]]  # by figure, method and versions mapped back

    @classmethod
    def of(cls, results: Results) -> Self:
        """Analyse the results of a comparison."""
        found = pairs(results)
        order = Order.of(results.summary, found)
        costs = consumer_costs(results.records)
        versions = VersionFigures.of(results.records)
        gone = incomplete(results.summary, results.failures)
        whole = [record for record in results.records if record.method not in gone]
        return cls(
            results=results,
            table=comparable(results.summary, results.failures),
            incomplete=gone,
            pairs=found,
            groups=groups(order),
            front=pareto_front(results.summary),
            decision=decide(results, order, costs),
            by_version=versions,
            consumers=consumer_figures(whole),
            consumer_costs=costs,
            distances=distances_by_slice(whole),
            compatibility=compatibility(results, versions.recall),
            chain=chain_figures(results.maps),
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods in the order of the table."""
        return tuple(row.method for row in self.results.summary)
