"""Workers, hours and memory of one update: the fit of a version, then a conversion."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from backstay.errors import UsageError
from backstay.sizing.demand import Demand
from backstay.sizing.figures import GIB, USABLE, Figure, money
from backstay.sizing.rates import Rates
from backstay.sizing.speed import CONVERT_DIM, FIT_DIM, convert_rate, fit_rate, serial_share
from backstay.training.config import FAST

EMBEDDINGS = 2
"""Times that a finished fit embeds all rows: by the new version and by version 0."""

LAYERS_HELD = 3
"""Vectors of all rows that exist at once: two layers of one version, and the other version's."""


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Hours of one part of an update."""

    figures: tuple[Figure, ...] = ()
    fixed: float = 0.0  # that more workers don't shorten
    shared: float = 0.0  # of one core, shared by all workers


def update_figures(demand: Demand, rates: Rates) -> Iterator[Figure]:
    """The fit of a version and the conversion of its tables, one after the other."""
    fit, conversion = _fit(demand, rates), _conversion(demand, rates)
    yield from (*fit.figures, *conversion.figures)
    fixed, shared = fit.fixed + conversion.fixed, fit.shared + conversion.shared
    if fixed >= demand.deadline:
        raise UsageError(
            f"--deadline: expected more than {math.ceil(fixed * 100) / 100:,} hours, found "
            f"{demand.deadline:g}. More workers don't shorten them. Give more hours, or fewer "
            "--interactions or --rows."
        )
    workers = max(1, math.ceil(shared / (demand.deadline - fixed)))
    yield Figure(
        "workers",
        workers,
        "",
        f"{shared:.3g} h / ({demand.deadline:g} h − {fixed:.3g} h), rounded up",
    )
    hours = fixed + shared / workers
    yield Figure("duration", hours, "h", f"{fixed:.3g} h + {shared:.3g} h / {workers:,}")
    each, limits = demand.node_cores, f"{demand.node_cores} cores"
    if demand.edges:
        memory = (rates.fit_memory_base.value + demand.edges * rates.fit_memory.value) / GIB
        yield Figure(
            "memory of a worker",
            memory,
            "GiB",
            f"{rates.fit_memory_base.value / GIB:.2f} GiB + {demand.edges:,} × "
            f"{rates.fit_memory.value:.0f} bytes; each worker holds the whole graph",
        )
        usable = USABLE * demand.node_memory
        if memory > usable:
            raise UsageError(
                f"--node-memory: expected at least {math.ceil(memory / USABLE):,} GiB, found "
                f"{demand.node_memory:g}. Each worker of a fit holds the graph of all "
                f"{demand.edges:,} interactions. Give larger nodes or fewer --interactions; "
                "--interactions 0 leaves the fit out."
            )
        each = min(each, int(usable / memory))
        layers = LAYERS_HELD * demand.rows * 4 * demand.dim / GIB
        yield Figure(
            "temporary disk of a fit",
            layers,
            "GiB",
            f"{LAYERS_HELD} × {demand.rows:,} × 4 × {demand.dim} bytes: memory-mapped "
            "vectors of one process",
        )
        limits += f" or {USABLE} × {demand.node_memory:g} GiB / {memory:.3g} GiB"
    nodes = math.ceil(workers / each)
    yield Figure(
        "nodes",
        nodes,
        "",
        f"{workers:,} / {each}, rounded up; a node has room for {limits}",
    )
    yield from money(demand, nodes, hours, "an update")


def _fit(demand: Demand, rates: Rates) -> _Work:
    """The fit by the fast recipe of `backstay update`, with sampled neighbours or whole graphs."""
    if not demand.edges:
        return _Work()
    rows, dim = demand.rows, demand.dim
    sampled = FAST.samples(rows)
    epoch, steps = FAST.warm().steps(demand.edges, sampled=sampled)
    triples = FAST.triples(sampled=sampled)
    edges = steps * triples
    training = edges / fit_rate(demand, rates) / 3600
    preparing = demand.edges / rates.prepare.value / 3600
    evaluations = math.ceil(steps / (epoch * FAST.evaluate_every))
    evaluating = evaluations * rows / (rates.evaluate.value * FIT_DIM / dim) / 3600
    embedding = EMBEDDINGS * rows / (rates.embed.value * FIT_DIM / dim) / 3600
    serial = serial_share(rates)
    fixed = preparing + evaluating + embedding + serial * training
    return _Work(
        figures=(
            Figure(
                "edges of the fit",
                edges,
                "",
                f"{steps:,} steps of {triples:,}, by the fast recipe for {demand.edges:,} "
                "interactions",
            ),
            Figure(
                "fit, one core",
                training,
                "h",
                f"{edges:,} / ({rates.fit.value:,.0f} edges/s × {FIT_DIM} / {dim})",
            ),
            Figure(
                "read and prepare",
                preparing,
                "h",
                f"{demand.edges:,} / {rates.prepare.value:,.0f} interactions/s, in one process",
            ),
            Figure(
                "evaluate",
                evaluating,
                "h",
                f"{evaluations} × {rows:,} / ({rates.evaluate.value:,.0f} rows/s × {FIT_DIM} / "
                f"{dim}), in one process",
            ),
            Figure(
                "embed all rows",
                embedding,
                "h",
                f"{EMBEDDINGS} × {rows:,} / ({rates.embed.value:,.0f} rows/s × {FIT_DIM} / {dim}), "
                "in one process",
            ),
            Figure(
                "not shortened by workers",
                fixed,
                "h",
                f"{preparing:.3g} h + {evaluating:.3g} h + {embedding:.3g} h + {serial:.3f} × "
                f"{training:.3g} h; serial share of a step: 2 / {rates.fit_speedup.value:.2f} − 1",
            ),
        ),
        fixed=fixed,
        shared=(1 - serial) * training,
    )


def _conversion(demand: Demand, rates: Rates) -> _Work:
    """The conversion of all rows to one older version."""
    rows = demand.rows
    hours = rows / convert_rate(demand, rates) / 3600
    figure = Figure(
        "conversion, one core",
        hours,
        "h",
        f"{rows:,} / ({rates.convert.value:,.0f} rows/s × {rates.convert_speedup.value:.2f} "
        f"/ 2 × {CONVERT_DIM} / {demand.dim})",
    )
    start = rates.convert_start.value / 3600
    begin = Figure("start of the conversion", start, "h", f"{rates.convert_start.value:g} s of Ray")
    return _Work(figures=(figure, begin), fixed=start, shared=hours)
