"""Data-parallel workers as plain torch sees them: who am I, and the sum of all gradients."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Workers:
    """A group of `size` workers of which this process is number `rank`."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """One worker of the group speaks for all: it judges, reports and saves."""
        return self.rank == 0

    def add_gradients(
        self, parameters: Iterable[nn.Parameter], figures: Tensor, *, wish: bool = False
    ) -> tuple[Tensor, bool]:
        """Replace each gradient by its sum over the workers, all in one exchange.

        Returns the sum of `figures` (n,), and whether any worker has expressed a wish; both
        travel with the gradients, so that all workers know the same at the same time.
        """
        if self.size == 1:
            return figures, wish
        # A worker that had no part of the batch has no gradient, and adds none.
        parameters = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        wishes = figures.new_tensor([float(wish)])
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), figures, wishes])
        dist.all_reduce(flat)
        offset = 0
        for parameter in parameters:
            parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()
        return flat[offset:-1], bool(flat[-1] > 0)

    def hear(self, value: float | None) -> float | None:
        """What the leader says, for all to know; what the others say doesn't matter."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0)
        return said[0]


ALONE = Workers()


def current_workers() -> Workers:
    """The process group torch has set up, or this process alone."""
    if dist.is_available() and dist.is_initialized():
        return Workers(dist.get_rank(), dist.get_world_size())
    return ALONE
