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

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the workers, in one exchange."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        offset = 0
        for gradient in gradients:
            gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
            offset += gradient.numel()


ALONE = Workers()


def current_workers() -> Workers:
    """The process group torch has set up, or this process alone."""
    if dist.is_available() and dist.is_initialized():
        return Workers(dist.get_rank(), dist.get_world_size())
    return ALONE


def global_mean_share(local: Tensor, count: int, total: int) -> Tensor:
    """This worker's summand of a mean over `total` rows, from its mean over `count` of them."""
    return local * (count / total)
