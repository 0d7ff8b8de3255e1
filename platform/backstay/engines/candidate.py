"""A fitted version before it is published: its vectors, its map and its figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from backstay.compat.maps import BackwardMap, Vectors
from backstay.datasets.dataset import Interactions
from backstay.errors import NotFoundError
from backstay.evaluation.contracts.vectors import CandidateVectors
from backstay.evaluation.metrics.alignment import alignment_error
from backstay.evaluation.metrics.ranking import RecallResult, recall_judge
from backstay.models.trained import TrainedModel
from backstay.registry.store import Space
from backstay.registry.tables import Batch
from backstay.training.request import FitRequest
from backstay.training.version import FittedVersion

Float32 = npt.NDArray[np.float32]
Figure = float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A version that is fitted and evaluated."""

    version: int
    z: Float32  # (n_users + n_items, D_k), users first
    tables: Mapping[str, Batch]  # ids and vectors of each entity
    backward: BackwardMap | None
    metrics: dict[str, object]
    alignment: Mapping[str, float]  # older version -> error relative to its vectors' spread
    recall: RecallResult | None
    recall_before: RecallResult | None  # of the model of the version before, on the same window

    def vectors(self, space: Space) -> CandidateVectors:
        """Its tables and its maps, for contracts."""
        return CandidateVectors(
            space=space,
            version=self.version,
            dim=self.z.shape[1],
            tables={entity: partial(iter, [batch]) for entity, batch in self.tables.items()},
            backward=self.backward,
        )


def evaluate(
    space: Space, version: int, fitted: FittedVersion, request: FitRequest, ids: Interactions
) -> Candidate:
    """Embed every entity of the snapshot with the fitted model, and compute the figures."""
    snapshot = request.step
    z = fitted.model.embed(snapshot, request.attributes)
    backward = None
    if fitted.matrix is not None:
        backward = BackwardMap(space.name, version, version - 1, fitted.matrix)
    judge = recall_judge(snapshot)
    recall = judge(torch.from_numpy(z)) if judge else None
    errors, relative = _alignment(space, version, backward, z, request)
    metrics: dict[str, object] = {
        "recall@50": recall and recall.mean,
        "validation_interactions": len(snapshot.validation),
        "alignment_error": errors,
        "relative_alignment_error": relative,
        "fit_seconds": round(fitted.seconds, 3),
    }
    before = _recall_before(judge, request)
    if version:
        metrics["before"] = _before(
            space, version - 1, recall=None if before is None else before.mean
        )
    users, items = ids.user_ids[: snapshot.n_users], ids.item_ids[: snapshot.n_items]
    tables = {"user": (users, z[: len(users)]), "item": (items, z[len(users) :])}
    return Candidate(
        version=version,
        z=z,
        tables=tables,
        backward=backward,
        metrics=metrics,
        alignment=relative,
        recall=recall,
        recall_before=before,
    )


class Comparison(TypedDict):
    """One figure of a version beside that of the version before."""

    figure: str
    version: Figure  # of this version
    before: Figure  # of the version before


def compare_with_before(metrics: Mapping[str, Any], *, dim: int) -> list[Comparison]:
    """The figures of a version's metrics beside those of the version before; [] for version 0.

    Both recalls are of the same window; the errors are relative to the older vectors' spread.
    """
    before = metrics.get("before")
    if before is None:
        return []
    rows: dict[str, tuple[Figure, Figure]] = {
        "recall@50": (metrics.get("recall@50"), before.get("recall@50")),
        "dimension": (dim, before.get("dim")),
        "fit_seconds": (metrics.get("fit_seconds"), before.get("fit_seconds")),
    }
    errors, former = (part.get("relative_alignment_error", {}) for part in (metrics, before))
    k = before["version"] + 1
    rows["alignment_error_to_version_0"] = errors.get("to_version_0"), former.get("to_version_0")
    if k > 1:
        step = errors.get(f"to_version_{k - 1}"), former.get(f"to_version_{k - 2}")
        rows["alignment_error_to_version_before"] = step
    return [Comparison(figure=name, version=new, before=old) for name, (new, old) in rows.items()]


def stored_model(space: Space, version: int) -> TrainedModel:
    """The model that was published with a version."""
    stored = space.model(version)
    return TrainedModel.from_parts(stored.config, stored.weights, stored.vocabulary)


def _recall_before(
    judge: Callable[[torch.Tensor], RecallResult] | None, request: FitRequest
) -> RecallResult | None:
    """Recall@50 of the version before on the same window."""
    if judge is None or request.previous is None:
        return None
    z = request.previous.model.embed(request.step, request.attributes)
    return judge(torch.from_numpy(z))


def _before(space: Space, version: int, *, recall: float | None) -> dict[str, object]:
    """The figures of the version before that the candidate is compared with."""
    metrics = space.metrics(version) if "metrics.json" in space.manifest(version).files else {}
    return {
        "version": version,
        "dim": space.manifest(version).dim,
        "recall@50": recall,
        "relative_alignment_error": metrics.get("relative_alignment_error", {}),
        "fit_seconds": metrics.get("fit_seconds"),
    }


def _alignment(
    space: Space, version: int, backward: BackwardMap | None, z: Float32, request: FitRequest
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean ‖z̃_j - z_j*‖₂ over the snapshot, for j = k - 1 and j = 0; and the same relative.

    z_j* is M_j run on this snapshot. The relative error is divided by the mean distance of z_j*
    from their mean. A version without a model or a chain is left out.
    """
    errors: dict[str, float] = {}
    relative: dict[str, float] = {}
    if backward is None:
        return errors, relative
    vectors = backward.convert(Vectors(space.name, version, z))
    for target in sorted({0, version - 1}):
        try:
            converted = space.chain(version - 1, target).convert(vectors)
            model = stored_model(space, target)
        except NotFoundError:
            continue
        reference = model.embed(request.step, request.attributes)
        name = f"to_version_{target}"
        errors[name] = alignment_error([converted.values], [reference])
        centre = np.broadcast_to(reference.mean(axis=0), reference.shape)
        spread = alignment_error([centre], [reference])
        relative[name] = errors[name] / spread if spread else 0.0
    return errors, relative
