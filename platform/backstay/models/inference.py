"""Exact vectors of a whole snapshot, layer by layer over blocks of nodes.

Each layer is computed for all nodes before the next one begins, so a block needs only its direct
neighbours. Time grows with the number of edges; memory holds the vectors of two layers.
"""

import tempfile

import numpy as np
import torch
from torch import Tensor

from backstay.models.graph import first_links, first_matrix, gather_matrix, input_matrix
from backstay.models.protocol import EmbeddingModel
from backstay.models.snapshot import Snapshot

BLOCK_NODES = 16_384
"""Nodes of one block."""

MAPPED_BYTES = 1 << 28
"""Larger vectors go to a memory-mapped temporary file, which the system may page out."""


@torch.no_grad()
def embed(
    model: EmbeddingModel,
    snapshot: Snapshot,
    *,
    device: str | torch.device = "cpu",
    block_nodes: int = BLOCK_NODES,
) -> Tensor:
    """The vectors of every node by a model in evaluation mode: (nodes, D) float32 on the CPU.

    Equals `model(full_graph(snapshot))` for every block size.
    """
    device = torch.device(device)
    training = model.training
    model.eval()
    try:
        distinct = np.arange(1 + snapshot.n_items)
        h = model.start(input_matrix(snapshot, distinct).to(device))
        for number in range(model.n_layers):
            h = _layer(model, snapshot, number, h, device=device, block_nodes=block_nodes)
    finally:
        model.train(training)
    return h


def _layer(
    model: EmbeddingModel,
    snapshot: Snapshot,
    number: int,
    h: Tensor,
    *,
    device: torch.device,
    block_nodes: int,
) -> Tensor:
    out = None
    h = h.to(device)
    for start in range(0, snapshot.n_nodes, block_nodes):
        nodes = np.arange(start, min(start + block_nodes, snapshot.n_nodes))
        if number:
            matrix = gather_matrix(snapshot.links(nodes, model.normalisation), snapshot.n_nodes)
        else:
            links = first_links(snapshot, nodes, model.normalisation)
            matrix = first_matrix(snapshot, links)
        block = model.layer(number, h, matrix.to(device))
        if out is None:
            out = _empty(snapshot.n_nodes, block.shape[1])
        out[start : start + len(nodes)] = block
    return torch.empty(0, model.config.dim) if out is None else out


def _empty(rows: int, width: int) -> Tensor:
    if 4 * rows * width < MAPPED_BYTES:
        return torch.empty(rows, width)
    with tempfile.NamedTemporaryFile(prefix="backstay-") as file:
        return torch.from_file(file.name, shared=True, size=rows * width).view(rows, width)
