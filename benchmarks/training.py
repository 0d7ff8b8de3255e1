"""Training: time to quality, cost against size, and workers.

    BACKSTAY_TEST_DATA=DATA python benchmarks/training.py [--parts quality scaling workers]
        [--json FILE] [--picture FILE.png] [--threads N] [--huge]

quality: `bc-aligner` at the paper's dimensions on slices of public data, by the recipe `paper`
and by `fast`, each upon its own chain of versions. The target of a case is the median of the last
five evaluations of `paper`; its time is that of its whole fit, and the one of `fast` that of its
first evaluation at the target. `fast` is fitted before and after `paper` on the same cores, and the
slower of both counts. Seconds hold graph, alignment target, steps and evaluations; what the two
recipes have in common before that, imports and reading the data, is left out.

scaling: version 1 of marketplaces, 20 interactions a user and 100 an item, upon a version 0 of
random weights. Everything an update does is timed once and some steps; the seconds of a whole
update are extrapolated from these and say so. Memory is the greatest resident set of the process,
from reading the data set to judging the result, mapped files included.

workers: the same steps by one process of one thread and by two that exchange gradients over gloo,
in turn, start-up aside.

Every measurement has a process of its own. WORK keeps what was measured, so that an interrupted run
goes on, and parts that were measured one by one come together; empty it when the code
has changed (another recipe is measured again by itself).
"""

import argparse
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

from _machine import header, machine
from _process import log
from _training_quality import DIMS, FORMATS, HEAD, VERSIONS, Case, cases, row
from _training_scaling import cost_record, costs, pace_record, paces
from platformdirs import user_cache_path

PARTS = ("quality", "scaling", "workers")
SIZES, HUGE = [100_000, 1_000_000, 10_000_000], 50_000_000
WORK = user_cache_path("backstay") / "benchmarks" / "training"


def quality(options: argparse.Namespace) -> list[Case]:
    """Print the table of both recipes."""
    print(f"bc-aligner, paper: {options.epochs} epochs, {options.threads} thread(s)\n\n{HEAD}")
    found = []
    for dataset in options.datasets:
        for case in cases(
            dataset,
            options.versions or VERSIONS[dataset],
            data=Path(options.data),
            work=options.work,
            dims=options.dims,
            epochs=options.epochs,
            threads=options.threads,
            device=options.device,
        ):
            print(row(case), flush=True)
            found.append(case)
    print()
    return found


def scaling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print what an update costs at each size, and how that grows."""
    print(
        f"Version 1 of the marketplace, 320 dimensions, 2 layers, {options.threads} thread(s); "
        f"a step is the median of {options.steps}; the whole update is extrapolated\n\n"
        "| interactions | mode | nodes | edges | read s | prepare s | s/step (cpu) | s/10⁶ edges "
        "| inference s | evaluation s | whole update, extrapolated s | peak MB |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    records = []
    sizes = options.sizes + [HUGE] * options.huge
    for interactions, mode, cost in costs(
        sizes,
        work=options.work,
        steps=options.steps,
        threads=options.threads,
        device=options.device,
    ):
        print(
            f"| {interactions:,} | {mode} | {cost.nodes:,} | {cost.edges:,} | {cost.read:.1f} "
            f"| {cost.prepare:.1f} | {cost.step:.3f} ({cost.step_cpu:.3f}) "
            f"| {cost.per_million_edges:.1f} | {cost.inference:.1f} | {cost.evaluation:.1f} "
            f"| {cost.extrapolated:,.0f} | {cost.peak_mb:,.0f} |",
            flush=True,
        )
        records.append(cost_record(interactions, mode, cost))
    print()
    sampled = [record for record in records if record["mode"] == "neighbours"]
    for small, large in pairwise(sampled):
        print(growth(small, large))
    print()
    return records


def growth(small: dict[str, Any], large: dict[str, Any]) -> str:
    """How time and memory per interaction grow from one size to another."""

    def ratio(small_value: float, large_value: float) -> str:
        per_interaction = large["interactions"] / small["interactions"]
        return f"{large_value / small_value / per_interaction:.2f}×"

    return (
        f"{small['interactions']:,} → {large['interactions']:,}, per interaction: time "
        f"{ratio(*(size['extrapolated_update_seconds'] for size in (small, large)))} "
        f"(extrapolated), memory {ratio(small['peak_mb'], large['peak_mb'])}; beyond that of an "
        f"idle process {ratio(*(size['peak_mb'] - size['base_mb'] for size in (small, large)))}"
    )


def workers(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the pace of one worker and of two."""
    found = paces(
        options.workers_size, work=options.work, steps=options.worker_steps, repeats=options.repeats
    )
    records = [pace_record(options.workers_size, size, runs) for size, runs in found.items()]
    print(
        f"{options.workers_size:,} interactions, sampled neighbours, one thread a worker, "
        f"{options.worker_steps} steps, median of {options.repeats} turns\n\n"
        "| workers | steps/s (each turn) | s/10⁶ edges | peak MB of one | of all |\n"
        "|---|---|---|---|---|"
    )
    for record in records:
        turns = ", ".join(f"{pace:.2f}" for pace in record["steps_per_second_of_each_turn"])
        print(
            f"| {record['workers']} | {record['steps_per_second']:.2f} ({turns}) "
            f"| {record['seconds_per_million_edges']:.1f} | {record['peak_mb']:,.0f} "
            f"| {record['total_mb']:,.0f} |"
        )
    one, two = (record["steps_per_second"] for record in records)
    print(f"\nTwo workers are {two / one:.2f} times as fast as one.\n", flush=True)
    return records


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--picture", type=Path, help="draw the curves of part quality (PNG)")
    parser.add_argument("--work", type=Path, default=WORK, help="keeps what was measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    group = parser.add_argument_group("quality")
    group.add_argument("--datasets", nargs="+", choices=FORMATS, default=list(FORMATS))
    group.add_argument("--versions", type=int, nargs="+", choices=range(len(DIMS)))
    group.add_argument("--dims", type=int, nargs=len(DIMS), default=DIMS)
    group.add_argument("--epochs", type=int, default=100, help="of the recipe paper")
    group = parser.add_argument_group("scaling")
    group.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="INTERACTIONS")
    group.add_argument("--huge", action="store_true", help=f"{HUGE:,} interactions, too")
    group.add_argument("--steps", type=int, default=20)
    group = parser.add_argument_group("workers")
    group.add_argument("--workers-size", type=int, default=1_000_000, metavar="INTERACTIONS")
    group.add_argument("--worker-steps", type=int, default=30)
    group.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.data = os.environ.get("BACKSTAY_TEST_DATA")
    if "quality" in options.parts and not options.data:
        parser.error(f"set BACKSTAY_TEST_DATA to the folder that holds {' and '.join(FORMATS)}")
    return options


def main() -> None:
    """Measure, print, draw."""
    options = parsed()
    about = machine("torch", "numpy", "pyarrow")
    print(header(about), end="\n\n", flush=True)
    options.work.mkdir(parents=True, exist_ok=True)
    found = quality(options) if "quality" in options.parts else []
    sizes = scaling(options) if "scaling" in options.parts else []
    if "workers" in options.parts:
        if about["usable_cores"] == 1:
            log("two workers share one core here: their pace cannot be compared")
        sizes += workers(options)
    if options.json:
        settings = {"threads": options.threads, "device": options.device}
        report = {
            "machine": {**about, **settings},
            "cases": [case.record() for case in found],
            "scaling": sizes,
        }
        options.json.write_text(json.dumps(report, indent=2), encoding="utf-8")
        log(f"wrote {options.json}")
    if options.picture and found:
        # The processes that measure import this module, and need no matplotlib.
        from _training_picture import draw  # noqa: PLC0415

        draw(found, options.picture)
        log(f"wrote {options.picture}")


if __name__ == "__main__":
    main()
