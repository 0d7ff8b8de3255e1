"""Beginning a version with what the version before has learned."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from backstay.datasets.dataset import Vocabulary
from backstay.models.protocol import EmbeddingModel


def inherit(
    model: EmbeddingModel, older: EmbeddingModel, *, vocabulary: Vocabulary, known: Vocabulary
) -> bool:
    """Let a fresh, wider model do what an older one does, in its first dimensions.

    The model knows the attribute values of `vocabulary`, the older one those of `known`. The
    other dimensions keep their random start. Returns whether it can be done: both must be of one
    architecture, and nothing of the older may be larger.
    """
    ours, theirs = model.config, older.config
    if (
        ours.architecture != theirs.architecture
        or ours.dim < theirs.dim
        or ours.layers < theirs.layers
    ):
        return False
    rows = np.concatenate([[0], *_value_rows(vocabulary, known)])
    return model.inherit(older, torch.from_numpy(rows))


def _value_rows(vocabulary: Vocabulary, known: Vocabulary) -> Iterator[np.ndarray]:
    """For each of our values the row of the older table that holds it, or -1."""
    offset = 1
    positions = {}
    for kind, values in known.items():
        positions[kind] = {value: offset + n for n, value in enumerate(values)}
        offset += len(values)
    for kind, values in vocabulary.items():
        there = positions.get(kind, {})
        yield np.array([there.get(value, -1) for value in values], np.int64)


def keep_first(backward: nn.Linear) -> None:
    """Start a map as that of a model that has inherited: its first dimensions as they are."""
    with torch.no_grad():
        backward.weight.copy_(torch.eye(*backward.weight.shape))
