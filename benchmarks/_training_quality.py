"""Time to quality: the recipes `paper` and `fast` on the same slices of public data."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from _process import cached, in_fresh_process, log, mark

from backstay.compat.maps import AffineMap, chain_affine
from backstay.compat.methods import find_method
from backstay.datasets.dataset import Dataset
from backstay.datasets.ingest import Format, ingest
from backstay.datasets.timeline import SLICES, step
from backstay.evaluation.metrics.alignment import alignment_error
from backstay.evaluation.metrics.ranking import recall_score
from backstay.models.trained import TrainedModel
from backstay.training.config import FAST, PAPER, FitConfig, Recipe
from backstay.training.progress import Progress
from backstay.training.request import FitRequest, Predecessor, VersionPlan
from backstay.training.version import VersionCallbacks, fit_version

METHOD = "bc-aligner"
FORMATS: dict[str, Format] = {"ml-100k": "recbole", "movietweetings-100k": "movietweetings"}
VERSIONS = {"ml-100k": (0, 1, 2), "movietweetings-100k": (0, 1)}
DIMS, LAYERS = (256, 320, 384, 448, 512), (2, 2, 3, 3, 3)  # of versions 0 … 4 in the paper
LAST = 5
"""Evaluations of `paper` whose median is the target, so that a lucky peak doesn't set the bar."""


@dataclass(frozen=True)
class Point:
    """One evaluation."""

    epoch: float
    seconds: float  # since the fit was called: graph and alignment target included
    recall50: float


@dataclass(frozen=True)
class Outcome:
    """A finished version, and what it took."""

    model: TrainedModel
    matrix: npt.NDArray[np.float32] | None  # B_k
    curve: tuple[Point, ...]
    seconds: float  # of the whole fit, graph, alignment target and evaluations included
    cpu_seconds: float
    recall50: float  # of the state that the recipe keeps
    alignment_error: float  # mean ‖z̃_0 - z_0*‖₂ over all nodes, by the recipe's own chain
    reference_norm: float  # mean ‖z_0*‖₂ over the same nodes

    def first_at(self, target: float) -> float | None:
        """Seconds at the first evaluation that reaches the target."""
        return next((point.seconds for point in self.curve if point.recall50 >= target), None)


@dataclass(frozen=True)
class Case:
    """One version of one data set, by both recipes."""

    dataset: str
    version: int
    paper: Outcome
    fast: tuple[Outcome, ...]  # the same fit before and after the paper's: only the times differ

    @property
    def target(self) -> float:
        """The recall that `paper` reaches for good."""
        return statistics.median(point.recall50 for point in self.paper.curve[-LAST:])

    @property
    def fast_seconds(self) -> float | None:
        """When `fast` first reaches the target, in the slower of its two runs."""
        found = [run.first_at(self.target) for run in self.fast]
        reached = [seconds for seconds in found if seconds is not None]
        return max(reached) if len(reached) == len(found) else None

    def record(self) -> dict[str, Any]:
        """The case as JSON has it."""
        paper, fast = self.paper, self.fast[0]
        return {
            "dataset": self.dataset,
            "version": self.version,
            "method": METHOD,
            "target_recall50": self.target,
            "paper_seconds": paper.seconds,
            "fast_seconds": self.fast_seconds,
            "fast_final_recall50": fast.recall50,
            "paper_final_recall50": self.target,
            "paper_alignment_error": paper.alignment_error,
            "fast_alignment_error": fast.alignment_error,
            "paper_epochs": paper.curve[-1].epoch,
            "paper_first_at_target_seconds": paper.first_at(self.target),
            "paper_kept_recall50": paper.recall50,
            "paper_relative_alignment_error": paper.alignment_error / paper.reference_norm,
            "fast_relative_alignment_error": fast.alignment_error / fast.reference_norm,
            "fast_whole_seconds": max(run.seconds for run in self.fast),
            "paper_cpu_seconds": paper.cpu_seconds,
            "fast_whole_cpu_seconds": [run.cpu_seconds for run in self.fast],
            "paper_curve": [vars(point) for point in paper.curve],
            "fast_curve": [vars(point) for point in fast.curve],
        }


def fit_once(
    folder: Path,
    version: int,
    config: FitConfig,
    *,
    dims: Sequence[int],
    older: Sequence[Outcome],
    device: str,
) -> Outcome:
    """Fit a version upon the older ones of its own recipe, oldest first, and judge it."""
    data = Dataset.open(folder)
    interactions = data.interactions()
    attributes = data.attributes(interactions.item_ids)
    slice_ = step(interactions, version, SLICES[version], SLICES[version + 1])
    plan = VersionPlan(
        method=find_method(METHOD), dim=dims[version], layers=LAYERS[version], fit=config
    )
    maps = [outcome.matrix for outcome in older if outcome.matrix is not None]
    previous = Predecessor(older[-1].model, tuple(reversed(maps))) if older else None
    score, curve = recall_score(slice_), list[Point]()
    wall, processor = time.perf_counter(), time.process_time()

    def watch(phase: str, progress: Progress) -> None:
        seconds = time.perf_counter() - wall
        log(f"  {phase}, {progress}")
        if progress.score is not None:
            curve.append(Point(progress.epoch, seconds, progress.score))

    fitted = fit_version(
        FitRequest(step=slice_, attributes=attributes, plan=plan, previous=previous),
        score=score,
        device=device,
        callbacks=VersionCallbacks(watch=watch),
    )
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - processor
    z = fitted.model.embed(slice_, attributes)
    error, norm = 0.0, _norm(z)
    if older and fitted.matrix is not None:
        reference = older[0].model.embed(slice_, attributes)
        chain = chain_affine([AffineMap.linear(matrix) for matrix in (*maps, fitted.matrix)])
        found = chain.apply(z)
        error, norm = alignment_error([found], [reference]), _norm(reference)
    return Outcome(
        model=fitted.model,
        matrix=fitted.matrix,
        curve=tuple(curve),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        recall50=score(torch.from_numpy(z)) if score else float("nan"),
        alignment_error=error,
        reference_norm=norm,
    )


def _norm(z: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(z.astype(np.float64), axis=1).mean())


def cases(
    dataset: str,
    versions: Sequence[int],
    *,
    data: Path,
    work: Path,
    dims: Sequence[int],
    epochs: int,
    threads: int,
    device: str,
) -> Iterator[Case]:
    """Both recipes in turn, version after version; what `work` keeps is not fitted again."""
    folder = work / "datasets" / dataset
    if not folder.exists():
        ingest([data / dataset], format=FORMATS[dataset], out=folder)
    configs: dict[Recipe, FitConfig] = {
        "paper": replace(PAPER.lasting(epochs), evaluate_every=min(5, epochs)),
        "fast": FAST,
    }
    older: dict[Recipe, list[Outcome]] = {"paper": [], "fast": []}
    shape = f"{'-'.join(map(str, dims))}-{epochs}-epochs-{threads}-threads-{device}"

    def run(recipe: Recipe, version: int, name: str) -> Outcome:
        fit = partial(
            fit_once,
            folder,
            version,
            configs[recipe],
            dims=dims,
            older=older[recipe],
            device=device,
        )
        path = (
            work
            / f"quality-{shape}"
            / f"{dataset}-v{version}-{name}-{mark(configs[recipe])}.pickle"
        )
        return cached(path, partial(in_fresh_process, fit, threads=threads))

    for version in range(max(versions) + 1):
        before = run("fast", version, "fast-before")
        paper = run("paper", version, "paper")
        after = run("fast", version, "fast-after")
        older["paper"].append(paper)
        older["fast"].append(before)
        if version in versions:
            yield Case(dataset, version, paper, (before, after))


HEAD = (
    "| data | version | target | paper s (first there) | fast s (whole) | gain "
    "| recall paper / kept / fast | alignment error paper / fast (of ‖z_0*‖) |\n"
    "|---|---|---|---|---|---|---|---|"
)


def row(case: Case) -> str:
    """One row of the table."""
    found = case.record()
    seconds = found["fast_seconds"]
    gain = f"{found['paper_seconds'] / seconds:.1f}×" if seconds else "never there"
    return (
        f"| {case.dataset} | {case.version} | {found['target_recall50']:.4f} "
        f"| {found['paper_seconds']:,.1f} ({_short(found['paper_first_at_target_seconds'])}) "
        f"| {_short(seconds)} ({found['fast_whole_seconds']:,.1f}) "
        f"| {gain} | {found['paper_final_recall50']:.4f} / {found['paper_kept_recall50']:.4f} "
        f"/ {found['fast_final_recall50']:.4f} "
        f"| {found['paper_alignment_error']:.3f} / {found['fast_alignment_error']:.3f} "
        f"({found['paper_relative_alignment_error']:.1%} "
        f"/ {found['fast_relative_alignment_error']:.1%}) |"
    )


def _short(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:,.1f}"
