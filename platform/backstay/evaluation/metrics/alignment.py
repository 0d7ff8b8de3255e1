"""Alignment distance: how far converted vectors lie from the older model's own vectors."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from backstay.errors import UsageError

BLOCK_ROWS = 1 << 15  # rows of float64 differences held at once

Floats32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


def distances(found: Floats32, reference: Floats32) -> Floats:
    """‖z̃ − z*‖₂ of each entity: (n,) float64.

    `found`, z̃ (n, D), are vectors converted to an older version; `reference`, z* (n, D), are that
    version's own vectors of the same entities.
    """
    if found.shape != reference.shape:
        raise UsageError(
            f"expected a table of the reference's shape {reference.shape}, found {found.shape}; "
            "both cover every entity of one step, in the older version's dimension."
        )
    norms = np.empty(len(found))
    for start in range(0, len(found), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        gap = found[rows].astype(np.float64) - reference[rows]
        np.sqrt(np.einsum("nd,nd->n", gap, gap), out=norms[rows])
    return norms


def alignment_error(found: Sequence[Floats32], reference: Sequence[Floats32]) -> float:
    """The mean of `distances` over the entities of several tables, one per kind."""
    if len(found) != len(reference) or not sum(len(table) for table in found):
        raise UsageError(
            f"expected {len(reference)} tables with every entity of one step, "
            f"found {len(found)} with {sum(len(table) for table in found)} rows."
        )
    return float(np.concatenate([*map(distances, found, reference)]).mean())
