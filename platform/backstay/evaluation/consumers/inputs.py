"""Vectors of every entity of a step, and the input rows that a consumer reads from them."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from backstay.errors import UsageError
from backstay.evaluation.consumers.labels import Examples
from backstay.models.tensors import as_tensor


@dataclass(frozen=True)
class StepVectors:
    """Vectors of every entity of one step, in one space, on one device."""

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
        """Move arrays or tensors to `device` as float32; no copy if they are there already."""
        return cls(
            *(as_tensor(values).detach().to(device, torch.float32) for values in (users, items))
        )


class Inputs:
    """The input rows of some examples, gathered batch by batch to bound memory."""

    def __init__(self, vectors: StepVectors, examples: Examples) -> None:
        self.parts = [
            (table, as_tensor(index).to(table.device))
            for table, index in ((vectors.users, examples.users), (vectors.items, examples.items))
            if index is not None
        ]
        for table, index in self.parts:
            if len(index) and int(index.max()) >= len(table):
                raise UsageError(
                    f"expected at least {int(index.max()) + 1} rows, as the examples index, found "
                    f"{len(table)}; pass the vectors of the examples' own step."
                )
        self.count = len(examples)
        self.dim = sum(table.shape[1] for table, _ in self.parts)  # D, or 2·D for pairs
        self.device = self.parts[0][0].device

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: torch.Tensor | slice) -> torch.Tensor:
        parts = [table[index[rows]] for table, index in self.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
