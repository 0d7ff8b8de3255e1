"""z_{k-1} while version k learns: of every node, and of those of a sampled graph."""

from collections.abc import Sequence

import torch
from torch import Tensor

from backstay.models.neighbours import NeighbourSampler, Sample
from backstay.models.snapshot import Snapshot
from backstay.models.trained import TrainedModel


class Known:
    """The vectors of the version before, in evaluation mode on the training graph.

    Where version k learns from sampled neighbours, the version before has to see the same sample.
    With all neighbours it would see what version k doesn't: of a user, mostly, the very item that
    is to be recommended. Version k would then learn to rely on it, and be misled by it later.
    """

    def __init__(
        self, table: Tensor, model: TrainedModel | None = None, snapshots: Sequence[Snapshot] = ()
    ) -> None:
        """`table` is z_{k-1} (N, D_{k-1}); it may be mapped or shared memory and is read by rows.

        With M_{k-1} and the training graph as each `TrainedModel.lineage` reads it, samples can be
        embedded too.
        """
        self.table = table.detach()
        self._parts = list(zip(model.lineage if model else (), snapshots, strict=True))

    @property
    def dim(self) -> int:
        """D_{k-1}."""
        return self.table.shape[1]

    def rows(self, nodes: Tensor) -> Tensor:
        """Of some nodes (n,), having heard all their neighbours: (n, D_{k-1}), on their device."""
        return self.table.index_select(0, nodes.to(self.table.device)).to(nodes.device)

    def on_samples(self, fan_out: int, device: torch.device) -> "KnownOnSamples | None":
        """What embeds samples; None where that takes more than is known."""
        return KnownOnSamples(self._parts, fan_out, device) if self._parts else None


class KnownOnSamples:
    """M_{k-1} on sampled graphs."""

    def __init__(
        self,
        parts: Sequence[tuple[TrainedModel, Snapshot]],
        fan_out: int,
        device: torch.device,
    ) -> None:
        self._device = device
        self._networks = [model.load().to(device).eval() for model, _ in parts]
        self._bases = [
            None if model.basis is None else torch.tensor(model.basis, device=device)
            for model, _ in parts
        ]
        self._samplers = [
            NeighbourSampler(
                snapshot=snapshot,
                rounds=network.rounds,
                fan_out=fan_out,
                normalisation=network.normalisation,
            )
            for network, (_, snapshot) in zip(self._networks, parts, strict=True)
        ]

    @property
    def rounds(self) -> int:
        """How many rounds a sample needs."""
        return max(network.rounds for network in self._networks)

    @torch.no_grad()
    def embed(self, sample: Sample) -> Tensor:
        """The nodes that a sample leads to: (n, D_{k-1})."""
        z = torch.empty(0, device=self._device)
        for network, sampler, basis in zip(
            self._networks, self._samplers, self._bases, strict=True
        ):
            own = network(sampler.graph(sample).to(self._device))
            z = own if basis is None else torch.cat([z, own], 1) @ basis.T
        return z
