"""The kinds of maps, each fitted from the moments of a pair of tables."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from backstay.compat.closed_form import procrustes, ridge, similarity
from backstay.compat.maps import AffineMap
from backstay.compat.moments import Moments

PENALTY = 1e-4
"""Of ridge, as a share of the mean variance of the newer vectors' dimensions."""


def _first_dimensions(moments: Moments) -> AffineMap | None:
    source, target = moments.shape
    return AffineMap.linear(np.eye(target, source, dtype=np.float32)) if source >= target else None


FITS: Mapping[str, Callable[[Moments], AffineMap | None]] = {
    "no-map": _first_dimensions,
    "procrustes": procrustes,
    "similarity": similarity,
    "ridge": partial(ridge, penalty=PENALTY, intercept=False),
    "ridge-intercept": partial(ridge, penalty=PENALTY, intercept=True),
}
"""From moments to a map; None if the newer table has too few dimensions for it."""
