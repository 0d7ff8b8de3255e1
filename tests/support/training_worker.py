"""One worker of a data-parallel fit.

Run as `python -m tests.support.training_worker FOLDER RANK SIZE`.

The workers find each other through a file in FOLDER and use the loopback interface. Each fits every
case, and writes its results to FOLDER.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from backstay.training.fit import FitState
from backstay.training.workers import current_workers
from tests.support.planted import SAMPLED, WHOLE, aligned, pinsage, recall, run, vectors

COMMON = {
    "epochs": 3,
    "batch_size": 61,  # neither 2 nor 3 workers can share it evenly
    "learning_rate": 2e-3,
    "schedule": "cosine",
}
CASES = {
    "whole": WHOLE | {"average": 0.8, "negatives": 5},
    "sampled": SAMPLED | {"average": 0.8, "negatives": 5},  # 4 groups
    "plain": SAMPLED | {"schedule": "constant"},
    "post-hoc": WHOLE | {"train_model": False},
}
CUT_OFF = 4
"""Steps after which the cases of a second life begin: in the middle of an epoch."""


def fit_case(name, **options):
    """What a case ends with, by the workers of this process group."""
    model, maps, workers = pinsage(), aligned(), current_workers()
    # The first evaluation is the best one, and the leader alone learns so.
    remaining = iter([0.3, 0.2, 0.1])
    state = run(
        model,
        workers=workers,
        score=(lambda z: next(remaining) * float(np.isfinite(recall(z))))
        if workers.leads
        else None,
        selection_starts_after=0.0,
        keep="best" if name == "plain" else "last",
        **maps,
        **(COMMON | CASES[name] | options),
    )
    found = {"vectors": vectors(model).numpy(), "matrix": maps["backward"].weight.detach().numpy()}
    for figure in ("loss", "alignment"):
        found[figure] = np.array([point[figure] for point in state.curve])
    return found


def state_of(folder, name):
    return FitState(**torch.load(folder / f"{name}.pt", weights_only=True))


if __name__ == "__main__":
    folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=size
    )
    found = {name: fit_case(name) for name in CASES}
    for name in CASES:
        found[f"{name} resumed"] = fit_case(name, state=state_of(folder, name))
    for name, arrays in found.items():
        np.savez(folder / f"{name}-{rank}.npz", **arrays)
    dist.destroy_process_group()
