"""Speeds of workers at a demand's dimension. Two workers are measured, more are simulated."""

from backstay.sizing.demand import Demand
from backstay.sizing.rates import Rates

CONVERT_DIM, FIT_DIM = 256, 320
"""Dimensions at which conversion and fit were measured; speeds are taken as proportional to 1/D."""


def fit_rate(demand: Demand, rates: Rates) -> float:
    """Edges a second of one worker at this dimension."""
    return rates.fit.value * FIT_DIM / demand.dim


def convert_rate(demand: Demand, rates: Rates) -> float:
    """Rows a second of each of several workers at this dimension."""
    return rates.convert.value * rates.convert_speedup.value / 2 * CONVERT_DIM / demand.dim


def serial_share(rates: Rates) -> float:
    """The share s of a step that workers don't share: T(2) / T(1) = s + (1 − s) / 2."""
    return min(1.0, max(0.0, 2 / rates.fit_speedup.value - 1))
