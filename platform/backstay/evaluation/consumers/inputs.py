"""Vectors of every entity of a step, and the rows a consumer reads out of them."""

import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from backstay.errors import UsageError
from backstay.evaluation.consumers.labels import Examples


def as_tensor(values: torch.Tensor | npt.NDArray[Any]) -> torch.Tensor:
    """View an array as a tensor to read from, without a copy.

    Memory maps and shared memory are read-only arrays, about which torch warns; nothing in this
    package writes to its inputs.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.as_tensor(values)


@dataclass(frozen=True)
class Tables:
    """The vectors of every entity of one step, in one space, on one device."""

    users: torch.Tensor  # (n_users, D) float32
    items: torch.Tensor  # (n_items, D) float32

    @classmethod
    def of(
        cls,
        users: torch.Tensor | npt.NDArray[np.float32],
        items: torch.Tensor | npt.NDArray[np.float32],
        *,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Take arrays or tensors to `device` as float32, without a copy where they are there."""
        return cls(
            *(as_tensor(values).detach().to(device, torch.float32) for values in (users, items))
        )


class Inputs:
    """The input rows of some examples, gathered a batch at a time and never all at once."""

    def __init__(self, tables: Tables, examples: Examples) -> None:
        self.parts = [
            (table, as_tensor(index).to(table.device))
            for table, index in ((tables.users, examples.users), (tables.items, examples.items))
            if index is not None
        ]
        for table, index in self.parts:
            if len(index) and int(index.max()) >= len(table):
                raise UsageError(
                    f"the examples ask for row {int(index.max())} of a table of {len(table)} rows; "
                    "pass the tables of the examples' own step."
                )
        self.count = len(examples)
        # D, or 2·D for pairs
        self.dim = sum(table.shape[1] for table, _ in self.parts)
        self.device = self.parts[0][0].device

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: torch.Tensor | slice) -> torch.Tensor:
        parts = [table[index[rows]] for table, index in self.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
