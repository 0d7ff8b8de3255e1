"""The data that tests of the loop train on, and short ways to call a fit."""

import torch

from backstay.evaluation.metrics.ranking import RankingTask
from backstay.models.architectures import build_model
from backstay.models.graph import full_graph
from backstay.models.inference import embed
from backstay.models.protocol import ModelConfig
from backstay.models.snapshot import Snapshot
from backstay.training.alignment import Alignment, fresh_map
from backstay.training.config import FitConfig
from backstay.training.extension import Extension
from backstay.training.fit import FitCallbacks, fit
from backstay.training.learner import Learner, Networks
from backstay.training.phase_timer import PhaseTimer
from backstay.training.teacher import Teacher
from backstay.training.workers import Workers
from tests.support.snapshots import planted_snapshot

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
NETWORKS = ("alignment", "backward", "extension", "teacher", "train_model")
CALLBACKS = ("checkpoint", "checkpoint_seconds", "watch")


class OutOfTouch(Workers):
    """A worker of several who gets only its own values."""

    def add_gradients(self, parameters, figures, *, flag=False):
        del parameters
        return figures, flag

    def broadcast(self, value):
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
        "teacher": Teacher(random(NODES, 6, seed=7)),
    }


def extended(dim=8, *, seed=0):
    """The options of a fit that builds onto vectors of 6 dimensions, with a basis of its own."""
    extension = Extension(6, dim)
    with torch.no_grad():
        extension.change.copy_(random(6 + dim, 6 + dim, seed=10 + seed))
    return {"extension": extension, "teacher": Teacher(random(NODES, 6, seed=9))}


def run(model, **options):
    """`fit`; `options` are those of the networks, the callbacks, the fit and its configuration."""
    networks = Networks(model=model, **taken(options, NETWORKS))
    callbacks = FitCallbacks(**taken(options, CALLBACKS))
    own = taken(options, ("score", "workers", "state"))
    config = FitConfig(**(SHORT | options))
    return fit(SNAPSHOT, networks, config, callbacks=callbacks, **own)


def taken(options, names):
    """The options of the given names, which are removed from `options`."""
    return {name: options.pop(name) for name in names if name in options}


def learner_of(model, **options):
    networks = Networks(model=model, **taken(options, NETWORKS))
    config = FitConfig(**(SHORT | options))
    return Learner(SNAPSHOT, networks, config, device=CPU, timer=PhaseTimer())


def vectors(model):
    return embed(model, SNAPSHOT)


def recall(z):
    return RankingTask.of(STEP).recall(z[: STEP.n_users], z[STEP.n_users :], k=5).mean
