"""One worker of a data-parallel fit: `python -m tests.unit.training.two_workers FOLDER RANK SIZE`.

The workers meet through a file in FOLDER and talk over the loopback interface.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tests.unit.models.snapshots import planted_snapshot

from backstay.models.architectures import build_model
from backstay.models.graph import Graph
from backstay.models.protocol import ModelConfig
from backstay.training.fit import Aligner, FitConfig, embed, fit
from backstay.training.workers import current_workers


def fit_joint():
    """A joint fit of a few steps, with batches that two workers can't share evenly."""
    step, attributes = planted_snapshot()
    graph = Graph.of(step, attributes)
    generator = torch.Generator().manual_seed(0)
    model = build_model(ModelConfig(dim=8, values=(4, 24)), seed=0)
    aligner = Aligner(
        8,
        target=torch.randn(step.n_users + step.n_items, 6, generator=generator),
        older_maps=[torch.randn(5, 6, generator=generator)],
    )
    config = FitConfig(epochs=3, batch_size=61, evaluate_every=3)
    fit(
        step,
        graph,
        model=model,
        aligner=aligner,
        config=config,
        score=None,
        workers=current_workers(),
    )
    return embed(model, graph).numpy(), aligner.matrix.detach().numpy()


if __name__ == "__main__":
    folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=size
    )
    vectors, matrix = fit_joint()
    np.savez(folder / f"worker-{rank}.npz", vectors=vectors, matrix=matrix)
    dist.destroy_process_group()
