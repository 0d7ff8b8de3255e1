"""What one optimiser step of the embedding model costs, beside the textbook formulation.

    BACKSTAY_TEST_DATA=DATA python benchmarks/training_step.py [--versions 0 1 2] [--threads 1]

The rival is GraphSAGE as a tutorial writes it: one long table of nodes, a gather and an
`index_add` over all edges for the mean, two linear layers, three gathers for the loss, Adam as it
comes. It starts from the same weights (the script checks that its vectors are the same) and takes
its steps in turn with ours, on the same draws. DATA holds `ml-100k` and `movietweetings-100k`.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch
from _machine import header, machine
from torch import Tensor, nn
from torch.nn import functional

from backstay.datasets.dataset import Attributes, Dataset
from backstay.datasets.ingest import Format, ingest
from backstay.datasets.timeline import Step, steps
from backstay.models.graph import full_graph
from backstay.models.pinsage import PinSAGE
from backstay.models.protocol import ModelConfig
from backstay.models.snapshot import Snapshot
from backstay.training.config import PAPER, FitConfig
from backstay.training.learner import Learner, Networks
from backstay.training.phase_timer import PhaseTimer
from backstay.training.sampling import TripleSampler
from backstay.training.workers import ALONE

DATA: dict[str, Format] = {"ml-100k": "recbole", "movietweetings-100k": "movietweetings"}
LAYERS = (2, 2, 3, 3, 3)  # of versions 0 … 4 in the paper
FLOAT_NOISE = 1e-3  # beside vectors of the order of 1, since batch norm comes last


class Textbook(nn.Module):
    """The formula of PinSAGE word by word, with the weights of one of ours."""

    def __init__(self, ours: PinSAGE, step: Step, attributes: Attributes) -> None:
        super().__init__()
        dim = ours.config.dim
        user, *tables = torch.split(ours.table.detach(), [1, *ours.config.values])
        self.user = nn.Parameter(user.clone())
        self.tables = nn.ParameterList(table.clone() for table in tables)
        self.from_neighbours = nn.ModuleList(nn.Linear(dim, dim) for _ in ours.layers)
        self.from_self = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in ours.layers)
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in ours.layers)
        for depth, (neighbours, own) in enumerate(
            zip(self.from_neighbours, self.from_self, strict=True)
        ):
            from_neighbours, from_self = ours.weight(depth).detach().chunk(2)
            neighbours.get_parameter("weight").data.copy_(from_neighbours)
            neighbours.get_parameter("bias").data.zero_()
            own.get_parameter("weight").data.copy_(from_self)

        self.n_users, self.n_items = step.n_users, step.n_items
        users = torch.from_numpy(step.train.users).long()
        items = torch.from_numpy(step.train.items).long() + step.n_users
        self.edges = torch.cat([users, items]), torch.cat([items, users])
        self.owned = []
        for kind in attributes.kinds:
            indptr = kind.rows.starts[: step.n_items + 1]
            owners = np.repeat(np.arange(step.n_items), np.diff(indptr))
            values = kind.rows.columns[: indptr[-1]]
            self.owned.append((torch.from_numpy(owners), torch.from_numpy(values).long()))

    def forward(self) -> Tensor:
        """Embed every node: (N, D) float32."""
        means = [
            mean_over(owners, table.index_select(0, values), self.n_items)
            for (owners, values), table in zip(self.owned, self.tables, strict=True)
        ]
        items = torch.stack(means).sum(0)
        z = torch.cat([self.user.expand(self.n_users, -1), items])
        dst, src = self.edges
        for depth, (from_neighbours, from_self, norm) in enumerate(
            zip(self.from_neighbours, self.from_self, self.norms, strict=True), 1
        ):
            neighbours = mean_over(dst, z.index_select(0, src), len(z))
            z = norm(from_neighbours(neighbours) + from_self(z))
            if depth < len(self.norms):
                z = torch.relu(z)
        return z


def mean_over(owners: Tensor, rows: Tensor, count: int) -> Tensor:
    """The mean of the rows of each of `count` owners: (count, D)."""
    total = rows.new_zeros(count, rows.shape[1]).index_add(0, owners, rows)
    return total / torch.bincount(owners, minlength=count).clamp(min=1).unsqueeze(1)


def textbook_step(model: Textbook, snapshot: Snapshot, config: FitConfig) -> Callable[[], None]:
    """One optimiser step of the rival, ready to be taken again and again."""
    sampler, numbers = TripleSampler(snapshot), count()
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)

    def take() -> None:
        rng = np.random.default_rng((config.seed, next(numbers)))
        batch = sampler.draw(config.batch_size, rng)
        z = model()
        users = z[batch.users]
        positives = z[batch.positives + snapshot.n_users]
        negatives = z[batch.negatives + snapshot.n_users]
        loss = functional.softplus((users * (negatives - positives)).sum(1))
        for rows in (users, positives, negatives):
            loss = loss + config.regularisation * 0.5 * rows.square().sum(1)
        optimiser.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return take


def lone_learner(snapshot: Snapshot, model: PinSAGE) -> Learner:
    """Ours, on the paper's recipe and without a version before."""
    return Learner(
        snapshot,
        Networks(model=model),
        PAPER,
        device=torch.device("cpu"),
        timer=PhaseTimer(),
    )


def milliseconds(rivals: dict[str, Callable[[], object]], repeat: int) -> dict[str, list[float]]:
    """Time of `repeat` calls of each, taken in turn after one that doesn't count.

    One thread is timed by what it computes, so that a busy machine disturbs little; several
    threads can only be timed by the clock on the wall.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(repeat + 1):
        for name, call in rivals.items():
            started = clock()
            call()
            if turn:
                found[name].append(1e3 * (clock() - started))
    return found


def compare(step: Step, attributes: Attributes, *, dim: int, layers: int, repeat: int) -> str:
    """One row of the table."""
    vocabulary = attributes.vocabulary(items=step.n_known_items)
    attributes = attributes.reindexed(vocabulary)
    sizes = tuple(len(values) for values in vocabulary.values())
    torch.manual_seed(0)
    ours = PinSAGE(ModelConfig(dim=dim, layers=layers, values=sizes))
    rival = Textbook(ours, step, attributes)
    snapshot = Snapshot.of(step, attributes)
    with torch.no_grad():
        ours_z = ours(full_graph(snapshot, ours.normalisation))
        difference = (ours_z - rival()).abs().max().item()
    if difference > FLOAT_NOISE:
        raise SystemExit(f"the rival's vectors differ by {difference}: no fair comparison")
    learner, numbers = lone_learner(snapshot, ours), count()
    found = milliseconds(
        {
            "ours": lambda: learner.step(next(numbers), ALONE, progress=0.0),
            "rival": textbook_step(rival, snapshot, PAPER),
        },
        repeat,
    )
    ours_ms, rival_ms = (statistics.median(found[name]) for name in ("ours", "rival"))
    return (
        f"| {step.index} | {dim}/{layers} | {step.n_users + step.n_items:,} "
        f"| {len(step.train):,} | {ours_ms:.1f} ({min(found['ours']):.1f}) "
        f"| {rival_ms:.1f} ({min(found['rival']):.1f}) | {rival_ms / ours_ms:.1f}× "
        f"| {difference:.0e} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dims", type=int, nargs=5, default=[256, 320, 384, 448, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=15)
    options = parser.parse_args()
    folder = os.environ.get("BACKSTAY_TEST_DATA")
    if not folder:
        parser.error(f"set BACKSTAY_TEST_DATA to the folder that holds {' and '.join(DATA)}")
    torch.set_num_threads(options.threads)

    print(header(machine("torch", "numpy")))
    pages = os.environ.get("THP_MEM_ALLOC_ENABLE", "not set")
    clock = "CPU" if options.threads == 1 else "wall"
    print(f"{options.threads} thread(s), THP_MEM_ALLOC_ENABLE {pages}\n")
    for name, format_ in DATA.items():
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / name
            ingest([Path(folder) / name], format=format_, out=out)
            dataset = Dataset.open(out)
            interactions = dataset.interactions()
            attributes = dataset.attributes(interactions.item_ids)
        print(f"{name}, {options.repeat} steps of 2,048 triples: median (fastest) {clock} ms\n")
        print("| version | dims/layers | nodes | edges | ours | textbook | gain | apart by |")
        print("|---|---|---|---|---|---|---|---|")
        for step in steps(interactions):
            if step.index in options.versions:
                dim, layers = options.dims[step.index], LAYERS[step.index]
                print(
                    compare(step, attributes, dim=dim, layers=layers, repeat=options.repeat),
                    flush=True,
                )
        print()


if __name__ == "__main__":
    main()
