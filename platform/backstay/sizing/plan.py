"""The whole plan: what an update and the service take, and how speed grows with workers."""

from dataclasses import dataclass
from typing import Literal

from backstay.sizing.demand import Demand
from backstay.sizing.figures import Figure
from backstay.sizing.rates import GIVEN, Rates
from backstay.sizing.service import service_figures
from backstay.sizing.speed import CONVERT_DIM, convert_rate, fit_rate, serial_share
from backstay.sizing.update import update_figures

SCALED_WORKERS = (1, 2, 4, 8, 16, 32, 64)
MEASURED_WORKERS = 2


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """The speed of some workers together."""

    workers: int
    fit: float  # edges a second
    convert: float  # rows a second
    known: Literal["measured", "given", "simulated"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a demand takes."""

    demand: Demand
    rates: Rates
    update: tuple[Figure, ...]
    service: tuple[Figure, ...]
    scaling: tuple[Scaled, ...]


def make_plan(demand: Demand, rates: Rates) -> Plan:
    """Compute machines, hours and money.

    Raises UsageError if no number of workers meets the deadline, or a node's memory is too small.
    """
    return Plan(
        demand=demand,
        rates=rates,
        update=tuple(update_figures(demand, rates)),
        service=tuple(service_figures(demand, rates)),
        scaling=tuple(_scaled(demand, rates, workers) for workers in SCALED_WORKERS),
    )


def _scaled(demand: Demand, rates: Rates, workers: int) -> Scaled:
    """Speeds of some workers; beyond two, the fit follows Amdahl's law and conversion is linear."""
    serial = serial_share(rates)
    alone = rates.convert.value * CONVERT_DIM / demand.dim
    used = (rates.fit, rates.fit_speedup, rates.convert, rates.convert_speedup)
    own = any(rate.source == GIVEN for rate in used)
    return Scaled(
        workers=workers,
        fit=fit_rate(demand, rates) / (serial + (1 - serial) / workers),
        convert=alone if workers == 1 else workers * convert_rate(demand, rates),
        known="simulated" if workers > MEASURED_WORKERS else "given" if own else "measured",
    )
