"""The final map of a fitted version to the version before: solved, trained, or inverted."""

import numpy as np
import numpy.typing as npt
from torch import nn

from backstay.compat.closed_form import agree, fit_maps
from backstay.compat.maps import EntityMaps
from backstay.models.inference import embed
from backstay.models.trained import TrainedModel
from backstay.training.extension import inverse_map
from backstay.training.prepared import Prepared
from backstay.training.request import FitRequest, Predecessor


def final_map(
    request: FitRequest,
    model: TrainedModel,
    prepared: Prepared,
    backward: nn.Linear | None,
    *,
    leads: bool,
    device: str,
) -> EntityMaps | None:
    """The map of the finished `model` to the version before; None where the method has none.

    Only the leading worker solves for a map, because only its result is used.
    """
    method, previous = request.plan.method, request.previous
    if previous is None or method.map == "none":
        return None
    form = method.closed_form
    if method.joint and request.plan.fit.solve_maps:
        form = "linear"
    if form and method.map == "linear" and prepared.teacher_z is not None and leads:
        z = embed(model.load(), prepared.snapshot).numpy()
        maps = fit_maps(form, z, prepared.teacher_z, n_users=request.step.n_users)
        return _agreed(request, previous, z, maps, device) if request.plan.solves_for_all else maps
    if backward is not None:
        return EntityMaps.linear(backward.weight.detach().cpu().numpy())
    if model.basis is not None:
        return EntityMaps.linear(inverse_map(model.basis, previous.model.dim))
    return EntityMaps.linear(np.eye(previous.model.dim, model.dim, dtype=np.float32))


def _agreed(
    request: FitRequest,
    previous: Predecessor,
    z: npt.NDArray[np.float32],
    newest: EntityMaps,
    device: str,
) -> EntityMaps:
    """The map that agrees best with the direct maps from z_k into every older version.

    `newest` is the direct map into version k - 1. Older models run one after the other.
    """
    directs = [newest.matrix]
    for model in previous.older[: len(previous.matrices)]:
        older = model.embed(request.step, request.attributes, device=device)
        directs.append(fit_maps("linear", z, older, n_users=request.step.n_users).matrix)
    return EntityMaps.linear(agree(directs, previous.matrices[: len(directs) - 1]))
