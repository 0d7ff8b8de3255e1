"""The cells of a comparison: functions of arrays that give arrays, and can run anywhere.

A cell fits one version by one method, trains the consumers of one task, or judges one version.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from backstay.compat.maps import EntityMaps, chain_entity_maps
from backstay.compat.methods import find_method
from backstay.datasets.dataset import Attributes
from backstay.datasets.timeline import Step
from backstay.evaluation.comparison.results import (
    ALIGNMENT,
    RECOMMENDATION,
    RETRIEVAL,
    Failure,
    MapFigures,
    Record,
)
from backstay.evaluation.consumers.inputs import StepVectors
from backstay.evaluation.consumers.labels import ConsumerTask, Examples
from backstay.evaluation.consumers.model import Consumer
from backstay.evaluation.consumers.training import ConsumerConfig, train_consumers
from backstay.evaluation.metrics.alignment import Floats, distances
from backstay.evaluation.metrics.bootstrap import (
    Resamples,
    Units,
    auc_replicates,
    defined_interval,
    mean_over_seeds,
    mean_replicates,
)
from backstay.evaluation.metrics.compatibility import (
    error_by_slice,
    flip_rates,
    retention,
    spectrum,
)
from backstay.evaluation.metrics.ranking import (
    JUDGED_USERS,
    RankingTask,
    RecallResult,
    recall_score,
)
from backstay.evaluation.metrics.roc_auc import roc_auc
from backstay.models.trained import TrainedModel
from backstay.training.memory import peak_memory
from backstay.training.version import Predecessor, VersionPlan, fit_version

log = logging.getLogger("backstay.compare")

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Data:
    """What every cell reads: the timeline and the items' attributes."""

    steps: tuple[Step, ...]
    attributes: Attributes


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One version by one method."""

    version: int
    model: TrainedModel
    backward: tuple[EntityMaps, ...]  # B_k, …, B_1: newest first; () where there are none
    curves: dict[str, list[dict[str, float]]]  # per phase: one entry per evaluation
    seconds: float
    peak_rss_mb: float

    def maps_to(self, target: int) -> EntityMaps:
        """The chain from this version to an older one."""
        return chain_entity_maps(self.backward[: self.version - target][::-1])


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What one version by one method is worth, to its own task and to old consumers."""

    version: int
    records: tuple[Record, ...]
    maps: tuple[MapFigures, ...] = ()
    recall: Floats = field(default_factory=lambda: np.zeros(0))  # (B,) replicates of Recall@50
    aucs: Mapping[str, Floats] = field(default_factory=dict)  # per task (B,), mean over seeds


def fit_cell(
    data: Data,
    plan: VersionPlan,
    *older: Fitted,
    version: int,
    fitted: Fitted | None = None,
) -> Fitted:
    """Fit one version by one method.

    `older` are versions 0 … k - 1 of a method that leads back to them; `fitted` is the finished
    model that only lacks a map.
    """
    step = data.steps[version]
    predecessor = None
    if older:
        matrices: tuple[Float32, ...] = ()
        if plan.method.aligns:
            matrices = tuple(maps.matrix for maps in older[-1].backward)
        newest, *others = (part.model for part in reversed(older))
        predecessor = Predecessor(newest, matrices, tuple(others) if plan.solves_for_all else ())
    with peak_memory() as peak:
        result = fit_version(
            step,
            data.attributes,
            plan,
            previous=predecessor,
            score=recall_score(step),
            fitted=fitted.model if fitted else None,
        )
    backward = older[-1].backward if older else ()
    return Fitted(
        version=version,
        model=result.model,
        backward=(result.backward, *backward) if result.backward else backward,
        curves=result.curves,
        seconds=result.seconds + (fitted.seconds if fitted else 0.0),
        peak_rss_mb=max(peak.rss_mb, fitted.peak_rss_mb if fitted else 0.0),
    )


def train_cell(
    data: Data, task: ConsumerTask, first: Fitted, config: ConsumerConfig
) -> list[Consumer]:
    """Train the consumers of one task, once, on version 0's vectors."""
    own = {
        index: _tables(data.steps[index], first.model.embed(data.steps[index], data.attributes))
        for index in {0, task.early_stop_step}
    }
    return train_consumers(task, own[0], own[task.early_stop_step], config=config)


def judge_cell(
    data: Data,
    tasks: Sequence[ConsumerTask],
    method: str,
    seed: int,
    *others: Fitted | list[Consumer] | Failure,
) -> Judgement:
    """Judge the newest of a method's versions.

    `others` are the consumers of each task (by seed), then the method's versions 0 … k. A task
    whose consumers could not be trained is left out.
    """
    consumers, versions = others[: len(tasks)], others[len(tasks) :]
    line = [part for part in versions if isinstance(part, Fitted)]
    newest, first = line[-1], line[0]
    step = data.steps[newest.version]
    resamples = Resamples()
    z = newest.model.embed(step, data.attributes)
    reference = first.model.embed(step, data.attributes)
    ranking = RankingTask.of(step)
    about = Record(
        method=method,
        version=newest.version,
        task=RECOMMENDATION,
        metric="recall@50",
        seed=seed,
        value=0.0,
    )
    recall, recalls = _recall(ranking, step, z, z, resamples)
    records = [replace(about, value=recall.mean, interval=defined_interval(recalls))]
    compatible = _compatible(newest, z, reference.shape[1], n_users=step.n_users)
    records += _aligned(about, data, step, compatible, reference)
    aucs: dict[str, Floats] = {}
    if newest.version:
        cross, replicates = _recall(ranking, step, compatible, reference, resamples)
        record = replace(about, task=RETRIEVAL, value=cross.mean)
        records.append(replace(record, interval=defined_interval(replicates)))
    for task, trained in zip(tasks, consumers, strict=True):
        if newest.version in task.judge and isinstance(trained, list):
            found, aucs[task.name] = _consumed(
                about,
                task.judge[newest.version],
                trained,
                old=_tables(step, reference),
                new=_tables(step, compatible),
                resamples=resamples,
            )
            records += found
    return Judgement(
        version=newest.version,
        records=tuple(records),
        maps=tuple(_maps(method, data, line, z, reference)),
        recall=recalls,
        aucs=aucs,
    )


def _recall(
    ranking: RankingTask, step: Step, users_z: Float32, items_z: Float32, resamples: Resamples
) -> tuple[RecallResult, Floats]:
    """Recall@50 of the users of one table against the items of another, and its replicates."""
    found = ranking.recall(users_z[: step.n_users], items_z[step.n_users :])
    return found, mean_replicates(found.values, Units("user", found.users), resamples)


def _compatible(newest: Fitted, z: Float32, dim: int, *, n_users: int) -> Float32:
    """z̃_0 (n, D_0): led back by the maps; without any, old consumers get the first dimensions."""
    led_back = newest.maps_to(0).apply(z, n_users=n_users) if newest.backward else z
    return np.ascontiguousarray(led_back[:, :dim])


def _aligned(
    about: Record, data: Data, step: Step, compatible: Float32, reference: Float32
) -> Iterator[Record]:
    """The alignment error, over all entities and over slices of them."""
    gaps = distances(compatible, reference)
    about = replace(about, task=ALIGNMENT, metric="alignment_error")
    yield replace(about, value=float(gaps.mean()))
    first = data.steps[0]
    known = {"known_users": first.n_known_users, "known_items": first.n_known_items}
    for name, error in error_by_slice(gaps, step, **known).items():
        yield replace(about, task=f"{ALIGNMENT}/{name}", value=error)


def _consumed(
    about: Record,
    examples: Examples,
    consumers: Sequence[Consumer],
    *,
    old: StepVectors,
    new: StepVectors,
    resamples: Resamples,
) -> tuple[list[Record], Floats]:
    """What the consumers of one task make of compatible vectors, beside M_0's own."""
    records, replicates = [], []
    units, labels = examples.units, examples.labels
    for seed, consumer in enumerate(consumers):
        before, after = (consumer.logits(examples, tables) for tables in (old, new))
        drawn = auc_replicates(after, labels, units, resamples)
        replicates.append(drawn)
        auc = roc_auc(after, labels)
        record = replace(about, task=consumer.task, seed=seed, metric="roc_auc", value=auc)
        records.append(replace(record, interval=defined_interval(drawn)))
        flips = flip_rates(before, after, labels)
        kept = retention(auc, roc_auc(before, labels))
        figures: dict[Any, float | None] = {
            "negative_flip_rate": flips.negative,
            "positive_flip_rate": flips.positive,
            "retention": kept,
        }
        records += [
            replace(record, metric=metric, value=value)
            for metric, value in figures.items()
            if value is not None
        ]
    name = consumers[0].task
    return records, mean_over_seeds(np.stack(replicates), task=name, resamples=resamples)


def _maps(
    method: str, data: Data, line: Sequence[Fitted], z: Float32, reference: Float32
) -> Iterator[MapFigures]:
    """How well the newest version leads back to each older one, by its own maps.

    There are many chains: where many users could judge them, a sample does.
    """
    *older, newest = line
    step = data.steps[newest.version]
    if not newest.backward or find_method(method).model == "frozen":
        return  # nothing leads back, or nothing has to
    ranking = RankingTask.of(step, most_users=JUDGED_USERS)
    for target in older:
        own = target.model.embed(step, data.attributes) if target.version else reference
        maps = newest.maps_to(target.version)
        led_back = maps.apply(z, n_users=step.n_users)
        shape = spectrum(maps.user.matrix)
        users, items = led_back[: step.n_users], own[step.n_users :]
        yield MapFigures(
            method=method,
            source=newest.version,
            target=target.version,
            spectral_norm=shape.norm,
            condition_number=shape.condition,
            alignment_error=float(distances(led_back, own).mean()),
            recall=ranking.recall(users, items).mean,
            old_recall=ranking.recall(own[: step.n_users], items).mean,
        )


def _tables(step: Step, z: Float32) -> StepVectors:
    return StepVectors.of(z[: step.n_users], z[step.n_users :])
