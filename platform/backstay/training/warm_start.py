"""Starting a version from the weights of the version before."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from backstay.datasets.dataset import Vocabulary
from backstay.errors import UsageError
from backstay.models.architectures import build_model
from backstay.models.protocol import EmbeddingModel, ModelConfig
from backstay.models.trained import TrainedModel
from backstay.training.config import FitConfig
from backstay.training.prepared import Prepared
from backstay.training.request import FitRequest


class Start(NamedTuple):
    """The network that a fit starts from."""

    model: EmbeddingModel
    config: FitConfig  # of the fit from here on
    warm: bool  # whether its first dimensions equal the predecessor's vectors


def start_model(request: FitRequest, prepared: Prepared) -> Start:
    """Build the network of a fit; it starts from its predecessor's weights where the plan asks.

    Raises UsageError where the plan does not fit the version before.
    """
    plan, previous, fit = request.plan, request.previous, request.plan.fit
    if request.fitted:
        return Start(request.fitted.load(), fit, warm=False)
    dim, layers = plan.dim, plan.layers
    if previous is not None and plan.method.model == "continued":
        dim, layers = previous.model.config.dim, previous.model.config.layers
        fit = fit.lasting(plan.tuning_epochs)
    if previous is not None and plan.method.model == "extended":
        dim -= previous.model.dim
        fit = fit.extending()
    values = tuple(len(values) for values in prepared.vocabulary.values())
    config = ModelConfig(architecture=plan.architecture, dim=dim, layers=layers, values=values)
    model = build_model(config, seed=fit.seed)
    if previous is not None and _inherits(model, previous.model, request, prepared):
        continued = plan.method.model == "continued"
        return Start(model, fit if continued else fit.warm(), warm=True)
    model.rescale(table=fit.table_scale, output=fit.output_scale)
    return Start(model, fit, warm=False)


def _inherits(
    model: EmbeddingModel, older: TrainedModel, request: FitRequest, prepared: Prepared
) -> bool:
    """Whether the model now has the weights of the older one; UsageError where it must have."""
    method = request.plan.method
    continued = method.model == "continued"
    if not (continued or (method.joint and request.plan.fit.warm_start)):
        return False
    inherited = inherit(
        model,
        older.load(),
        vocabulary=prepared.vocabulary,
        older_vocabulary=older.vocabulary,
    )
    if continued and not inherited:
        raise UsageError(
            f"{method.name} trains the version before on: expected a model of the architecture "
            f"{older.config.architecture}, found {request.plan.architecture}."
        )
    return inherited


def inherit(
    model: EmbeddingModel,
    older: EmbeddingModel,
    *,
    vocabulary: Vocabulary,
    older_vocabulary: Vocabulary,
) -> bool:
    """Initialise a wider model so that its first dimensions equal the older model's vectors.

    `vocabulary` holds the attribute values of the model, `older_vocabulary` those of the older one.
    The other dimensions stay random. Returns False, and changes nothing, where it is impossible:
    both need the same architecture, and the older model may not be wider or deeper.
    """
    ours, theirs = model.config, older.config
    if (
        ours.architecture != theirs.architecture
        or ours.dim < theirs.dim
        or ours.layers < theirs.layers
    ):
        return False
    rows = np.concatenate([[0], *_value_rows(vocabulary, older_vocabulary)])
    return model.inherit(older, torch.from_numpy(rows))


def _value_rows(
    vocabulary: Vocabulary, older_vocabulary: Vocabulary
) -> Iterator[npt.NDArray[np.int64]]:
    """Per kind, the row of the older table for each of our values, or -1."""
    offset = 1
    positions = {}
    for kind, values in older_vocabulary.items():
        positions[kind] = {value: offset + n for n, value in enumerate(values)}
        offset += len(values)
    for kind, values in vocabulary.items():
        there = positions.get(kind, {})
        yield np.array([there.get(value, -1) for value in values], np.int64)


def keep_first(backward: nn.Linear) -> None:
    """Initialise a map to the first dimensions: exact for a model that has inherited."""
    with torch.no_grad():
        backward.weight.copy_(torch.eye(*backward.weight.shape))
