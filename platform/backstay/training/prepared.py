"""The constant inputs of a fit: the graph, the vocabulary, and the teacher's vectors."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backstay.datasets.dataset import Vocabulary
from backstay.errors import UsageError
from backstay.models.architectures import ARCHITECTURES
from backstay.models.snapshot import Snapshot
from backstay.models.tensors import as_tensor
from backstay.training.request import FitRequest, Predecessor
from backstay.training.teacher import Teacher


@dataclass(frozen=True)
class Prepared:
    """The constant inputs of a fit; plain arrays that workers can share."""

    snapshot: Snapshot
    vocabulary: Vocabulary
    teacher_z: npt.NDArray[np.float32] | None  # z_{k-1} (N, D_{k-1}), where the method needs it
    teacher_snapshots: tuple[Snapshot, ...] = ()
    """The graph in the vocabulary of each network of M_{k-1}, oldest first, to embed samples."""

    def teacher(self, previous: Predecessor) -> Teacher | None:
        """The teacher, on the memory of these arrays; None where the method needs none."""
        if self.teacher_z is None:
            return None
        model = previous.model if self.teacher_snapshots else None
        return Teacher(as_tensor(self.teacher_z), model, self.teacher_snapshots)


def prepare(request: FitRequest, *, device: str = "cpu") -> Prepared:
    """Build the graph of a step, and compute the teacher's vectors where the method needs them.

    Raises UsageError where the plan does not fit the version before.
    """
    _check_width(request)
    step, plan, attributes = request.step, request.plan, request.attributes
    if request.fitted:
        vocabulary = request.fitted.vocabulary
    else:
        by_id = ARCHITECTURES[plan.architecture].uses_item_ids
        named = attributes.with_ids() if by_id else attributes
        vocabulary = named.vocabulary(items=step.n_known_items)
    snapshot = Snapshot.of(step, attributes.reindexed(vocabulary))
    if request.previous is None or not plan.method.needs_teacher:
        return Prepared(snapshot, vocabulary, None)
    model = request.previous.model
    teacher_z = model.embed(step, attributes, device=device)
    if plan.method.posthoc or not plan.fit.samples(snapshot.n_nodes):
        return Prepared(snapshot, vocabulary, teacher_z)
    snapshots = (snapshot.read_as(attributes.reindexed(part.vocabulary)) for part in model.lineage)
    return Prepared(snapshot, vocabulary, teacher_z, tuple(snapshots))


def _check_width(request: FitRequest) -> None:
    plan, previous = request.plan, request.previous
    if previous and plan.method.model == "extended" and plan.dim <= previous.model.dim:
        raise UsageError(
            f"{plan.method.name} adds dimensions to those of the version before: expected more "
            f"than {previous.model.dim}, found {plan.dim}. Ask for a wider version."
        )
