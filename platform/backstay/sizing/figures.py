"""The figures of a plan, each with its arithmetic, and what a machine offers."""

from collections.abc import Iterator
from dataclasses import dataclass

from backstay.sizing.demand import Demand

USABLE = 0.8
"""Share of a node's memory for workers or tables; the system and Ray have the rest."""

GIB = 2**30


@dataclass(frozen=True)
class Figure:
    """A number and its arithmetic."""

    name: str
    value: float
    unit: str
    how: str


def money(demand: Demand, nodes: int, hours: float, period: str) -> Iterator[Figure]:
    """The price of all cores of some nodes, where the demand has a price."""
    price = demand.price_per_core_hour
    if price is not None:
        yield Figure(
            f"money for {period}",
            nodes * demand.node_cores * hours * price,
            "",
            f"{nodes:,} × {demand.node_cores} cores × {hours:,.3g} h × {price:g}",
        )
