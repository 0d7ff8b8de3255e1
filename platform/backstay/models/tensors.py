"""Arrays as tensors, without a copy."""

import warnings

import numpy as np
import numpy.typing as npt
import torch


def as_tensor(values: torch.Tensor | npt.NDArray[np.generic]) -> torch.Tensor:
    """View an array as a tensor on the same memory. Do not write to the result.

    Memory maps and shared memory are read-only arrays, about which torch warns.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.as_tensor(values)
