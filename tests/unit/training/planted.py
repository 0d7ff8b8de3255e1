"""What the tests of the loop train on, and ways to say a fit in a line."""

import torch
from tests.unit.models.snapshots import planted_snapshot

from backstay.evaluation.metrics.ranking import RankingTask
from backstay.models.architectures import build_model
from backstay.models.graph import full_graph
from backstay.models.inference import embed
from backstay.models.protocol import ModelConfig
from backstay.models.snapshot import Snapshot
from backstay.training.alignment import Alignment, fresh_map
from backstay.training.clock import Clock
from backstay.training.config import FitConfig
from backstay.training.extension import Extension
from backstay.training.fit import fit
from backstay.training.known import Known
from backstay.training.learner import Learner
from backstay.training.workers import Workers

STEP, ATTRIBUTES = planted_snapshot()
SNAPSHOT = Snapshot.of(STEP, ATTRIBUTES)
GRAPH = full_graph(SNAPSHOT, "mean")
NODES = SNAPSHOT.n_nodes
EDGES = len(STEP.train)
VALUES = tuple(len(kind.values) for kind in ATTRIBUTES.kinds)
EVERYONE = 99  # a fan-out that leaves nobody out
CPU = torch.device("cpu")

SHORT = {"epochs": 4, "batch_size": 64, "evaluate_every": 1}
WHOLE = {"sampling": "full"}
SAMPLED = {"sampling": "neighbours", "fan_out": 3, "groups": 4, "group_size": 16}
OPTIONS = (
    "alignment",
    "backward",
    "extension",
    "known",
    "score",
    "learn_model",
    "workers",
    "state",
    "checkpoint",
    "checkpoint_seconds",
    "watch",
)


class OutOfTouch(Workers):
    """A worker of several who sees its own part and hears nobody."""

    def add_gradients(self, parameters, figures, *, wish=False):
        del parameters
        return figures, wish

    def hear(self, value):
        return value


def pinsage(dim=8, *, seed=0, architecture="pinsage"):
    return build_model(ModelConfig(architecture=architecture, dim=dim, values=VALUES), seed=seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alignment_of(*, loss="multi"):
    return Alignment(older_maps=[random(5, 6, seed=8)], loss=loss)


def aligned(dim=8, *, loss="multi", seed=0):
    """The options of a fit that aligns."""
    return {
        "alignment": alignment_of(loss=loss),
        "backward": fresh_map(dim, 6, seed=seed),
        "known": Known(random(NODES, 6, seed=7)),
    }


def extended(dim=8, *, seed=0):
    """The options of a fit that builds onto vectors of 6 dimensions, with a basis of its own."""
    extension = Extension(6, dim)
    with torch.no_grad():
        extension.change.copy_(random(6 + dim, 6 + dim, seed=10 + seed))
    return {"extension": extension, "known": Known(random(NODES, 6, seed=9))}


def run(model, **options):
    """`fit`, with options of its own and of the configuration alike."""
    own = {name: options.pop(name) for name in OPTIONS if name in options}
    return fit(SNAPSHOT, model=model, config=FitConfig(**(SHORT | options)), **own)


def learner_of(model, *, alignment=None, backward=None, learn_model=True, **options):
    built_onto = {name: options.pop(name, None) for name in ("extension", "known")}
    return Learner(
        SNAPSHOT,
        model,
        alignment,
        backward,
        FitConfig(**(SHORT | options)),
        learn_model=learn_model,
        device=CPU,
        clock=Clock(),
        **built_onto,
    )


def vectors(model):
    return embed(model, SNAPSHOT)


def recall(z):
    return RankingTask.of(STEP).recall(z[: STEP.n_users], z[STEP.n_users :], k=5).mean
