"""Exact vectors of a whole snapshot, layer by layer over blocks of nodes.

Each layer is finished for all nodes before the next begins, so that a block needs one round of
neighbours only: time grows with the edges, and memory with two layers of vectors.
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
"""Vectors of more bytes than this live in a temporary file, mapped: memory may give them up."""


@torch.no_grad()
def embed(
    model: EmbeddingModel,
    snapshot: Snapshot,
    *,
    device: str | torch.device = "cpu",
    block_nodes: int = BLOCK_NODES,
) -> Tensor:
    """The vectors of every node by a model in evaluation mode: (nodes, D) float32 on the CPU.

    The same as `model(full_graph(snapshot))`, whatever the size of the blocks.
    """
    device = torch.device(device)
    training = model.training
    model.eval()
    try:
        distinct = np.arange(1 + snapshot.n_items)
        h = model.start(input_matrix(snapshot, distinct).to(device))
        for number in range(model.rounds):
            h = _round(model, snapshot, number, h, device=device, block_nodes=block_nodes)
    finally:
        model.train(training)
    return h


def _round(
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
        block = model.round(number, h, matrix.to(device))
        if out is None:
            out = _empty(snapshot.n_nodes, block.shape[1])
        out[start : start + len(nodes)] = block
    return torch.empty(0, model.config.dim) if out is None else out


def _empty(rows: int, width: int) -> Tensor:
    if 4 * rows * width < MAPPED_BYTES:
        return torch.empty(rows, width)
    with tempfile.NamedTemporaryFile(prefix="backstay-") as file:
        return torch.from_file(file.name, shared=True, size=rows * width).view(rows, width)
