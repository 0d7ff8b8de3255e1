"""The teacher of version k: the vectors z_{k-1} of all nodes, or of a sampled graph's nodes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from backstay.models.neighbours import NeighbourSampler, Sample
from backstay.models.snapshot import Snapshot
from backstay.models.trained import TrainedModel


class Teacher:
    """The vectors of the version before, in evaluation mode on the training graph.

    When version k trains on sampled neighbours, the teacher vectors are computed on the same
    samples. Over all neighbours, a user's teacher vector would contain the very item that the
    sample leaves out as the one to recommend. Version k would learn to rely on it, and rank worse.
    """

    def __init__(
        self, table: Tensor, model: TrainedModel | None = None, snapshots: Sequence[Snapshot] = ()
    ) -> None:
        """`table` is z_{k-1} (N, D_{k-1}); it is read by rows and may be mapped or shared memory.

        With M_{k-1} and the training graph in the vocabulary of each model of its lineage, samples
        can be embedded too.
        """
        self.table = table.detach()
        self._parts = list(zip(model.lineage if model else (), snapshots, strict=True))

    @property
    def dim(self) -> int:
        """D_{k-1}."""
        return self.table.shape[1]

    def rows(self, nodes: Tensor) -> Tensor:
        """The vectors of nodes (n,) over all neighbours: (n, D_{k-1}), on the nodes' device."""
        return self.table.index_select(0, nodes.to(self.table.device)).to(nodes.device)

    def sampled(self, fan_out: int, device: torch.device) -> "SampledTeacher | None":
        """The teacher that embeds samples; None where there is only a table."""
        return SampledTeacher(self._parts, fan_out, device) if self._parts else None


class SampledTeacher:
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
            NeighbourSampler.of(snapshot, network, fan_out=fan_out)
            for network, (_, snapshot) in zip(self._networks, parts, strict=True)
        ]

    @property
    def n_layers(self) -> int:
        """The number of layers that a sample needs."""
        return max(network.n_layers for network in self._networks)

    @torch.no_grad()
    def embed(self, sample: Sample) -> Tensor:
        """The vectors of the nodes that a sample is drawn for: (n, D_{k-1})."""
        z = torch.empty(0, device=self._device)
        for network, sampler, basis in zip(
            self._networks, self._samplers, self._bases, strict=True
        ):
            own = network(sampler.graph(sample).to(self._device))
            z = own if basis is None else torch.cat([z, own], 1) @ basis.T
        return z
