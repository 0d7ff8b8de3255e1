"""Data-parallel workers: rank and size, the sum of gradients, and a broadcast."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Workers:
    """A group of `size` workers; this process has number `rank`."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is worker 0, which evaluates, reports and saves for all."""
        return self.rank == 0

    def add_gradients(
        self, parameters: Iterable[nn.Parameter], figures: Tensor, *, flag: bool = False
    ) -> tuple[Tensor, bool]:
        """Replace each gradient by its sum over the workers, all in one exchange.

        Returns the sum of `figures` (n,), and whether any worker set its flag. Both travel with the
        gradients, so all workers get the same values at the same step.
        """
        if self.size == 1:
            return figures, flag
        # A worker that had no part of the batch has no gradient; it adds zeros.
        parameters = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flags = figures.new_tensor([float(flag)])
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), figures, flags])
        dist.all_reduce(flat)
        offset = 0
        for parameter in parameters:
            parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()
        return flat[offset:-1], bool(flat[-1] > 0)

    def broadcast(self, value: float | None) -> float | None:
        """The value of worker 0, on every worker; the values of the others are ignored."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


ALONE = Workers()


def current_workers() -> Workers:
    """The workers of torch's process group; this process alone where there is none."""
    if dist.is_available() and dist.is_initialized():
        return Workers(dist.get_rank(), dist.get_world_size())
    return ALONE
