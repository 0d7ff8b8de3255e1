"""The product of vectors and a chain of maps, checked."""

import numpy as np
import numpy.typing as npt

from backstay.compat.maps import BackwardMap, Vectors


def product(chain: BackwardMap, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Vectors (n, D_source) of the chain's source as (n, D_target); OverflowError for float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        converted = chain.convert(Vectors(chain.space, chain.source, values)).values
    if not np.isfinite(converted).all():
        raise OverflowError(f"{chain} exceeds float32")
    return converted
