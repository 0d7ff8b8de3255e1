"""Running contracts: the metric of a consumer on a version's vectors, and the verdict."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backstay.errors import BackstayError, InputError
from backstay.evaluation.contracts.labelled import PAIR, Labelled
from backstay.evaluation.contracts.models import FrozenModel, load_model
from backstay.evaluation.contracts.vectors import Converted, VersionVectors
from backstay.evaluation.metrics.roc_auc import roc_auc
from backstay.registry.contracts import Contract, Metric, contracts, read_file
from backstay.registry.store import Space

_ROUNDING = 1e-9
"""A loss above the tolerated one by less than this passes."""

_BLOCK_SCORES = 1 << 24  # scores of users × items held at once

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one contract says about a version."""

    consumer: str
    contact: str
    reads: int  # the version whose vectors they read
    candidate: int  # the version that was checked
    metric: str | None
    baseline: float | None
    figure: float | None  # None where it could not be computed
    loss: float | None
    tolerance: float
    verdict: Literal["pass", "warn", "refuse"]
    reason: str


def run_contracts(space: Space, vectors: VersionVectors) -> list[Verdict]:
    """The verdict of every active contract of a space on a version's vectors."""
    return [run_contract(space, contract, vectors) for contract in contracts(space)]


def run_contract(space: Space, contract: Contract, vectors: VersionVectors) -> Verdict:
    """The verdict of one contract on a version's vectors."""
    figure = loss = None
    try:
        figure = contract_figure(space, contract, vectors)
    except BackstayError as error:
        reason = str(error)
    else:
        if figure is None or contract.baseline is None:
            reason = f"version {contract.version} stays readable"
            loss = 0.0
        else:
            loss = contract.baseline - figure
            loss = -loss if contract.metric == "rmse" else loss
            reason = (
                f"{contract.metric} {figure:.4f} against {contract.baseline:.4f}: a loss of "
                f"{loss:.4f}, {contract.tolerance:g} tolerated"
            )
    passed = loss is not None and loss <= contract.tolerance + _ROUNDING
    return Verdict(
        consumer=contract.name,
        contact=contract.contact,
        reads=contract.version,
        candidate=vectors.version,
        metric=contract.metric,
        baseline=contract.baseline,
        figure=figure,
        loss=loss,
        tolerance=contract.tolerance,
        verdict="pass" if passed else contract.policy,
        reason=reason,
    )


def contract_figure(space: Space, contract: Contract, vectors: VersionVectors) -> float | None:
    """The metric of a contract on a version's vectors; None for a contract without a metric.

    Raises BackstayError where the version can't be read as the contract's, or lacks labelled ids.
    """
    converted = Converted(vectors, contract.version)
    if contract.metric is None or contract.table is None:
        vectors.map_to(contract.version)
        return None
    labelled = Labelled.from_bytes(read_file(space, contract, contract.table))
    model = None
    if contract.model:
        data = read_file(space, contract, contract.model)
        model = load_model(data, contract.model.rpartition(".")[2])
    return figure(contract.metric, labelled, converted, model=model, k=contract.k)


def figure(
    metric: Metric,
    labelled: Labelled,
    converted: Converted,
    *,
    model: FrozenModel | None,
    k: int | None,
) -> float:
    """One metric of labelled ids on converted vectors."""
    vectors = {entity: converted.of(entity, ids) for entity, ids in labelled.ids.items()}
    if metric == "cosine":
        return _cosine(np.concatenate([*vectors.values()], axis=1), labelled.reference)
    if metric == "recall":
        return _recall(labelled, vectors, converted, k=k or 1)
    if labelled.labels is None:
        raise InputError(f"{metric} needs a column label; the labelled table has none.")
    if model:
        scores = model.predict(np.concatenate([*vectors.values()], axis=1))
        threshold = model.threshold
    elif len(vectors) == len(PAIR):
        scores, threshold = np.einsum("nd,nd->n", *vectors.values(), dtype=np.float64), 0.0
    else:
        raise InputError(f"{metric} of single ids needs a --model that scores their vectors.")
    if not np.isfinite(scores).all():
        raise InputError("the model's scores are not finite.")
    return _SCORED[metric](scores, labelled.labels, threshold)


def _roc_auc(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.float64], _: float) -> float:
    return roc_auc(_one_column(scores), labels > 0)


def _accuracy(
    scores: npt.NDArray[np.float64], labels: npt.NDArray[np.float64], threshold: float
) -> float:
    found = scores > threshold if scores.ndim == 1 else scores.argmax(axis=1)
    return float((found == labels).mean())


def _rmse(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.float64], _: float) -> float:
    return float(np.sqrt(np.mean((_one_column(scores) - labels) ** 2)))


_SCORED: Mapping[
    str,
    Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64], float], float],
] = {"roc-auc": _roc_auc, "accuracy": _accuracy, "rmse": _rmse}
"""The metrics of scores (n,) or (n, C), labels (n,) and the score that counts as positive."""


def _one_column(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scores (n,), or the second column of the scores of two classes."""
    if scores.ndim == 1:
        return scores
    if scores.shape[1] == 2:  # noqa: PLR2004
        return scores[:, 1]
    raise InputError(
        f"expected one score a row, or those of two classes; the model gives {scores.shape[1]}."
    )


def _cosine(found: Float32, reference: Float32 | None) -> float:
    """Mean cosine of found vectors (n, D) and the reference (n, D); 0 where either is zero."""
    if reference is None or found.shape != reference.shape:
        raise InputError(
            f"expected reference vectors of shape {found.shape}; found "
            f"{'none' if reference is None else reference.shape}."
        )
    dots = np.einsum("nd,nd->n", found, reference, dtype=np.float64)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
    return float(np.mean(dots / np.where(lengths > 0, lengths, 1)))


def _recall(
    labelled: Labelled, vectors: Mapping[str, Float32], converted: Converted, *, k: int
) -> float:
    """Share of the positive pairs whose item is among the user's K best of all items.

    Scores are dot products. An item's rank counts the items of the table that score higher.
    """
    if tuple(labelled.ids) != PAIR:
        raise InputError("recall needs the columns user and item; the labelled table has only id.")
    positive = np.ones(len(labelled), bool) if labelled.labels is None else labelled.labels > 0
    if not positive.any():
        raise InputError("recall needs rows with a label above 0; the labelled table has none.")
    users, items = (vectors[entity][positive] for entity in PAIR)
    own = labelled.ids["item"].filter(pa.array(positive))
    scores = np.einsum("nd,nd->n", users, items)
    above = np.zeros(len(users), np.int64)
    for ids, values in converted.batches("item"):
        rows = max(1, _BLOCK_SCORES // max(1, len(values)))
        for start in range(0, len(users), rows):
            block = slice(start, start + rows)
            higher = users[block] @ values.T > scores[block, None]
            place = pc.index_in(own[start : start + rows], value_set=ids)
            itself = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
            higher[itself, place.drop_null().to_numpy()] = False  # rounding never beats itself
            above[block] += higher.sum(axis=1)
    return float((above < k).mean())
