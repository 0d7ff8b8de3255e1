"""`backstay demo`: the whole loop on the built-in marketplace; leaves nothing running."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backstay.cluster.session import ray_session
from backstay.datasets.marketplace import generate
from backstay.datasets.marketplace_config import MarketplaceConfig
from backstay.engines.compare import compare
from backstay.engines.conversion.config import ConvertConfig
from backstay.engines.conversion.convert import convert
from backstay.engines.update import update
from backstay.engines.update_config import UpdateConfig
from backstay.errors import InputError, ServiceError
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.comparison.results import Results
from backstay.evaluation.report.terminal_table import terminal_table
from backstay.registry.stored import open_table
from backstay.serving.client import Client
from backstay.serving.server import run as serve

if TYPE_CHECKING:
    from rich.console import RenderableType

log = logging.getLogger("backstay.demo")

SPACE = "marketplace"
DIMS = (64, 80, 96)
SLICES = (0.5, 0.6, 0.7, 0.8)
INTERACTIONS = 30_000
METHODS = ("fix-m0", "no-bc", "posthoc-linear-single", "bc-aligner", "backstay")
SEEDS = 2
LOOKED_UP = 5


@dataclass(frozen=True, kw_only=True)
class ServedLookup:
    """Version-0 vectors that the service computed from the newest table."""

    url: str
    entity: str
    ids: tuple[str | int, ...]
    version: int  # the space of the vectors
    source_version: int  # the table they came from
    greatest_difference: float  # to the batch-converted table, over all numbers


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """What the demo made, with paths."""

    results: Results
    lookup: ServedLookup
    registry: str
    converted: str
    report: str
    seconds: dict[str, float]  # per stage


def run(*, out: Path) -> tuple[DemoReport, Analysis]:
    """Run data, versions, comparison, conversion and one served look-up, all under `out`.

    Returns the answer, and the analysis of the comparison for `picture`.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(
            f"expected a new or empty folder, found files in {out}. Choose another with --out."
        )
    dataset, registry, converted = out / "dataset", out / "registry", out / "items-v0"
    newest = len(DIMS) - 1
    seconds: dict[str, float] = {}
    with _timed("data", seconds):
        generate(MarketplaceConfig(interactions=INTERACTIONS), dataset)
    with _timed("updates", seconds):
        for dim, until in zip(DIMS, SLICES, strict=False):
            update(
                UpdateConfig(
                    registry=str(registry),
                    space=SPACE,
                    dataset=dataset,
                    until=until,
                    dim=dim,
                )
            )
    with ray_session():
        with _timed("comparison", seconds):
            analysis = compare(
                dataset, out=out / "comparison", methods=METHODS, dims=DIMS, seeds=SEEDS
            )
        with _timed("conversion", seconds):
            convert(
                ConvertConfig(
                    registry=str(registry),
                    space=SPACE,
                    source=newest,
                    targets=(0,),
                    entity="item",
                    output=str(converted),
                )
            )
        with _timed("serving", seconds):
            lookup = _look_up(registry, converted)
    report = DemoReport(
        results=analysis.results,
        lookup=lookup,
        registry=str(registry),
        converted=str(converted),
        report=str(out / "comparison" / "report.html"),
        seconds=seconds,
    )
    return report, analysis


def picture(report: DemoReport, analysis: Analysis) -> "RenderableType":
    """The comparison table, the served look-up in a sentence, and where the report is."""
    from rich.console import Group  # noqa: PLC0415  (only for people)

    served = report.lookup
    return Group(
        terminal_table(analysis),
        f"{len(served.ids)} {served.entity}s looked up over HTTP as of version {served.version}, "
        f"answered from the table of version {served.source_version}; greatest difference to the "
        f"batch conversion {served.greatest_difference:.1e}.",
        f"Report: {report.report}",
    )


def _look_up(registry: Path, converted: Path) -> ServedLookup:
    """Look up version 0 over HTTP, and compare the answer with the converted table."""
    ids, expected = open_table(str(converted)).read()
    chosen = ids[:LOOKED_UP].to_pylist()
    with serve(registry, port=0, blocking=False) as service, Client(service.url) as client:
        found = client.lookup(SPACE, "item", chosen, version=0)
        url = service.url
    difference = float(np.abs(found.values - expected[:LOOKED_UP]).max())
    if difference > 1e-3:  # noqa: PLR2004  (far above rounding, far below a wrong vector)
        raise ServiceError(
            f"the service's version-0 vectors differ from the converted table by {difference}; "
            f"expected the same chain of maps. Check the registry with `backstay verify`."
        )
    return ServedLookup(
        url=url,
        entity="item",
        ids=tuple(chosen),
        version=found.version,
        source_version=found.source_version,
        greatest_difference=difference,
    )


@contextmanager
def _timed(stage: str, seconds: dict[str, float]) -> Iterator[None]:
    log.info("demo: %s", stage)
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 1)
