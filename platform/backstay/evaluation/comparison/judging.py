"""Judging one version by one method: its own task, older consumers, and its maps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from backstay.compat.methods import find_method
from backstay.datasets.timeline import Step
from backstay.evaluation.comparison.results import (
    ALIGNMENT,
    RECOMMENDATION,
    RETRIEVAL,
    MapFigures,
    Metric,
    Record,
)
from backstay.evaluation.comparison.values import Data, Fitted, Judgement
from backstay.evaluation.consumers.inputs import StepVectors
from backstay.evaluation.consumers.labels import Examples, TaskName
from backstay.evaluation.consumers.model import Consumer
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
from backstay.evaluation.metrics.ranking import JUDGED_USERS, RankingTask, RecallResult
from backstay.evaluation.metrics.roc_auc import roc_auc

Float32 = npt.NDArray[np.float32]


def judge_version(
    data: Data,
    versions: Sequence[Fitted],
    *,
    method: str,
    seed: int,
    examples: Mapping[TaskName, Examples],
    consumers: Mapping[TaskName, Sequence[Consumer]],
) -> Judgement:
    """Judge the newest of a method's versions 0 … k, whose fits had this `seed`.

    `examples` are those of version k. A task without consumers, one per seed, is left out.
    """
    newest, first = versions[-1], versions[0]
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
    records += _alignment(about, data, step, compatible, reference)
    aucs: dict[str, Floats] = {}
    if newest.version:
        cross, replicates = _recall(ranking, step, compatible, reference, resamples)
        record = replace(about, task=RETRIEVAL, value=cross.mean)
        records.append(replace(record, interval=defined_interval(replicates)))
    spaces = vectors_of(step, reference), vectors_of(step, compatible)
    for task, asked in examples.items():
        if task in consumers:
            found, aucs[task] = _judge_consumers(about, asked, consumers[task], spaces, resamples)
            records += found
    return Judgement(
        version=newest.version,
        records=tuple(records),
        maps=tuple(_judge_maps(method, data, versions, z, reference)),
        recall=recalls,
        aucs=aucs,
    )


def vectors_of(step: Step, z: Float32) -> StepVectors:
    """The rows of z (n_users + n_items, D), users first, as vectors of the step."""
    return StepVectors.of(z[: step.n_users], z[step.n_users :])


def _recall(
    ranking: RankingTask, step: Step, users_z: Float32, items_z: Float32, resamples: Resamples
) -> tuple[RecallResult, Floats]:
    """Recall@50 of the users of one table against the items of another, and its replicates."""
    found = ranking.recall(users_z[: step.n_users], items_z[step.n_users :])
    return found, mean_replicates(found.values, Units("user", found.users), resamples)


def _compatible(newest: Fitted, z: Float32, dim: int, *, n_users: int) -> Float32:
    """z̃_0 (n, D_0): z mapped back to version 0, or its first D_0 dimensions without maps."""
    mapped = newest.maps_to(0).apply(z, n_users=n_users) if newest.backward else z
    return np.ascontiguousarray(mapped[:, :dim])


def _alignment(
    about: Record, data: Data, step: Step, compatible: Float32, reference: Float32
) -> Iterator[Record]:
    """The alignment error over all entities and over slices of them."""
    gaps = distances(compatible, reference)
    about = replace(about, task=ALIGNMENT, metric="alignment_error")
    yield replace(about, value=float(gaps.mean()))
    first = data.steps[0]
    known = {"known_users": first.n_known_users, "known_items": first.n_known_items}
    for name, error in error_by_slice(gaps, step, **known).items():
        yield replace(about, task=f"{ALIGNMENT}/{name}", value=error)


def _judge_consumers(
    about: Record,
    examples: Examples,
    consumers: Sequence[Consumer],
    spaces: tuple[StepVectors, StepVectors],
    resamples: Resamples,
) -> tuple[list[Record], Floats]:
    """Records of one task's consumers on compatible vectors, and the replicates of ROC-AUC.

    `spaces`: M_0's own vectors, and version k's mapped back to version 0, of the same entities.
    """
    records, replicates = [], []
    units, labels = examples.units, examples.labels
    for seed, consumer in enumerate(consumers):
        before, after = (consumer.logits(examples, z) for z in spaces)
        drawn = auc_replicates(after, labels, units, resamples)
        replicates.append(drawn)
        auc = roc_auc(after, labels)
        record = replace(about, task=consumer.task, seed=seed, metric="roc_auc", value=auc)
        records.append(replace(record, interval=defined_interval(drawn)))
        flips = flip_rates(before, after, labels)
        figures: dict[Metric, float | None] = {
            "negative_flip_rate": flips.negative,
            "positive_flip_rate": flips.positive,
            "retention": retention(auc, roc_auc(before, labels)),
        }
        records += [
            replace(record, metric=metric, value=value)
            for metric, value in figures.items()
            if value is not None
        ]
    name = consumers[0].task
    return records, mean_over_seeds(np.stack(replicates), task=name, resamples=resamples)


def _judge_maps(
    method: str, data: Data, versions: Sequence[Fitted], z: Float32, reference: Float32
) -> Iterator[MapFigures]:
    """Figures of the maps and chains from the newest version to each older one.

    There are many chains, so recall is computed on a sample of at most `JUDGED_USERS` users.
    """
    *older, newest = versions
    step = data.steps[newest.version]
    if not newest.backward or find_method(method).model == "frozen":
        return  # no maps, or maps between copies of one model
    ranking = RankingTask.of(step, most_users=JUDGED_USERS)
    for target in older:
        own = target.model.embed(step, data.attributes) if target.version else reference
        maps = newest.maps_to(target.version)
        mapped = maps.apply(z, n_users=step.n_users)
        shape = spectrum(maps.user.matrix)
        users, items = mapped[: step.n_users], own[step.n_users :]
        yield MapFigures(
            method=method,
            source=newest.version,
            target=target.version,
            spectral_norm=shape.norm,
            condition_number=shape.condition,
            alignment_error=float(distances(mapped, own).mean()),
            recall=ranking.recall(users, items).mean,
            old_recall=ranking.recall(own[: step.n_users], items).mean,
        )
