"""Memory, disk, shards and cores of the look-up service."""

import math
from collections.abc import Iterator

from backstay.sizing.demand import Demand
from backstay.sizing.figures import GIB, USABLE, Figure, money
from backstay.sizing.rates import Rates

BUSY = 0.6
"""Share of the service's cores that its usual load may take."""

ID_BYTES = 16
"""Bytes of an integer id in a copy that the service reads; strings take more."""

COPIES = 3
"""Copies of a table on a node's disk: in force, before it, and the next one."""

LEAST_NODES = 2
"""Nodes of a shard: one answers while the other is replaced."""

MONTH_HOURS = 730


def service_figures(demand: Demand, rates: Rates) -> Iterator[Figure]:
    """The look-up service."""
    rows, dim, ids = demand.rows, demand.dim, demand.ids_per_request
    stored = rows * (4 * dim + ID_BYTES) / GIB
    yield Figure(
        "tables in memory",
        stored,
        "GiB",
        f"{rows:,} × (4 × {dim} + {ID_BYTES}) bytes",
    )
    usable = USABLE * demand.node_memory
    shards = math.ceil(stored / usable)
    yield Figure(
        "shards",
        shards,
        "",
        f"{stored:,.1f} GiB / ({USABLE} × {demand.node_memory:g} GiB), upwards",
    )
    asked = min(shards, ids)
    seconds = asked / rates.requests.value + (ids - asked) / rates.ids.value
    yield Figure(
        "core time of a request",
        seconds * 1e3,
        "ms",
        f"{asked} / {rates.requests.value:,.0f} requests/s + {ids - asked} / "
        f"{rates.ids.value:,.0f} ids/s",
    )
    cores = math.ceil(demand.qps * seconds / BUSY)
    yield Figure(
        "cores",
        cores,
        "",
        f"{demand.qps:,.0f} requests/s × {seconds * 1e3:.3g} ms / {BUSY}, upwards",
    )
    each = max(LEAST_NODES, math.ceil(cores / shards / demand.node_cores))
    nodes = shards * each
    yield Figure(
        "nodes",
        nodes,
        "",
        f"{shards} × max({LEAST_NODES}, {cores:,} / {shards} / {demand.node_cores}, upwards)",
    )
    yield Figure(
        "memory for tables on a node",
        stored / shards,
        "GiB",
        f"{stored:,.1f} / {shards}",
    )
    yield Figure(
        "disk of a node",
        COPIES * stored / shards,
        "GiB",
        f"{COPIES} × {stored:,.1f} / {shards}: versions in force, before and next",
    )
    yield from money(demand, nodes, MONTH_HOURS, f"a month of {MONTH_HOURS} h")
