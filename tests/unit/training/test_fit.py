import copy
import io
from dataclasses import asdict

import numpy as np
import pytest
import torch
from tests.unit.models.snapshots import planted_snapshot
from torch import nn
from torch.nn import functional

from backstay.compat.losses import multi_step, single_step
from backstay.errors import TrainingError, UsageError
from backstay.evaluation.ranking import RankingTask
from backstay.models.architectures import build_model, model_weights
from backstay.models.graph import Graph
from backstay.models.protocol import ModelConfig
from backstay.training.fit import Aligner, FitConfig, FitState, _ranking_loss, embed, fit

STEP, ATTRIBUTES = planted_snapshot()
GRAPH = Graph.of(STEP, ATTRIBUTES)
NODES = STEP.n_users + STEP.n_items
VALUES = tuple(len(kind.values) for kind in ATTRIBUTES.kinds)


class FreeVectors(nn.Module):
    """The plainest model there is: a vector per node, and nothing between them."""

    def __init__(self, dim, *, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.z = nn.Parameter(torch.randn(NODES, dim, generator=generator))

    def forward(self, graph):
        assert graph.n_users + graph.n_items == NODES
        return self.z


def pinsage(dim=8, *, seed=0):
    return build_model(ModelConfig(dim=dim, values=VALUES), seed=seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def aligner_of(*, dim=8, seed=0, loss="multi"):
    target = random(NODES, 6, seed=7)
    return Aligner(dim, target=target, older_maps=[random(5, 6, seed=8)], loss=loss, seed=seed)


def run(model, *, aligner=None, score=None, **options):
    known = {
        name: options.pop(name)
        for name in ("learn_model", "state", "checkpoint")
        if name in options
    }
    config = FitConfig(**{"epochs": 4, "batch_size": 64, "evaluate_every": 1} | options)
    return fit(STEP, GRAPH, model=model, aligner=aligner, config=config, score=score, **known)


def recall(z):
    return RankingTask.of(STEP).recall(z[: STEP.n_users], z[STEP.n_users :], k=5).mean


def scripted(values):
    """A score that says `values` one after another, and keeps the vectors it was shown."""
    remaining, seen = iter(values), []

    def score(z):
        seen.append(z.clone())
        return next(remaining)

    return score, seen


def error(aligner, z):
    return single_step(aligner.residual(z)).item()


# Learning


def test_planted_tastes_are_learned():
    model = pinsage(16)
    before = recall(embed(model, GRAPH))
    run(model, score=recall, epochs=60, learning_rate=0.01, evaluate_every=10)
    assert before < 0.5
    assert recall(embed(model, GRAPH)) > 0.95


def test_the_loss_is_that_of_the_design():
    users, positives, negatives = random(3, 7, 4)
    expected = 0.0
    for u, p, n in zip(users, positives, negatives, strict=True):
        norms = (u @ u + p @ p + n @ n).item()
        expected += functional.softplus(u @ n - u @ p).item() + 0.3 * 0.5 * norms
    loss = _ranking_loss(users, positives, negatives, weight=0.3)
    assert loss.item() == pytest.approx(expected / 7, rel=1e-5)


@pytest.mark.parametrize("loss", ["single", "multi"])
def test_alignment_is_summed_over_users_positives_and_negatives(loss):
    """The first step's loss, recomputed by role from the same draws."""
    model, aligner = FreeVectors(8), aligner_of(loss=loss)
    state = run(model, aligner=aligner, epochs=1, batch_size=10_000, learning_rate=0.0, weight=3.0)
    from backstay.training.sampling import TripleSampler  # noqa: PLC0415

    batch = TripleSampler(STEP, seed=42).draw(10_000)
    z, expected = model.z.detach(), 0.0
    for nodes in batch.nodes(STEP.n_users).chunk(3):
        residual = aligner.target[nodes] - z[nodes] @ aligner.matrix.detach().T
        older = [random(5, 6, seed=8)]
        expected += (
            single_step(residual) if loss == "single" else multi_step(residual, older)
        ).item()
    rows = (z[nodes] for nodes in batch.nodes(STEP.n_users).chunk(3))
    ranking = _ranking_loss(*rows, weight=1e-2).item()
    assert state.curve[0]["alignment"] == pytest.approx(expected, rel=1e-5)
    assert state.curve[0]["loss"] == pytest.approx(ranking + 3.0 * expected, rel=1e-5)


def test_a_joint_fit_lowers_the_alignment_error_and_learns_both():
    model, aligner = pinsage(), aligner_of()
    weights, matrix = copy.deepcopy(model_weights(model)), aligner.matrix.detach().clone()
    before = error(aligner, embed(model, GRAPH))
    state = run(model, aligner=aligner, epochs=40, learning_rate=0.01)
    assert error(aligner, embed(model, GRAPH)) < 0.8 * before
    assert state.curve[-1]["alignment"] < state.curve[0]["alignment"]
    assert (model_weights(model)["table"] != weights["table"]).any()
    assert not torch.equal(aligner.matrix, matrix)


# Maps fitted afterwards


@pytest.mark.parametrize("loss", ["single", "multi"])
@pytest.mark.parametrize("planted", ["rotation", "projection"])
def test_a_planted_map_is_recovered_and_the_model_left_alone(loss, planted):
    model = FreeVectors(8)
    if planted == "rotation":
        truth = torch.linalg.qr(random(8, 8, seed=3))[0]
    else:
        truth = random(5, 8, seed=3)
    aligner = Aligner(
        8,
        target=model.z.detach() @ truth.T,
        older_maps=[random(4, len(truth), seed=4)],
        loss=loss,
    )
    before = model.z.detach().clone()
    state = run(
        model,
        aligner=aligner,
        learn_model=False,
        epochs=80,
        batch_size=16,
        learning_rate=0.03,
        evaluate_every=10,
    )
    torch.testing.assert_close(aligner.matrix.detach(), truth, atol=1e-2, rtol=0)
    assert torch.equal(model.z, before)
    assert -state.best_score == pytest.approx(error(aligner, before), rel=1e-5)


def test_a_post_hoc_fit_leaves_every_part_of_a_model_as_it_was():
    model, aligner = pinsage().train(), aligner_of()
    before = copy.deepcopy(model.state_dict())
    run(model, aligner=aligner, learn_model=False)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_older_maps_and_targets_are_never_trained():
    aligner = aligner_of()
    assert [name for name, _ in aligner.named_parameters()] == ["matrix"]
    assert list(aligner.state_dict()) == ["matrix"]
    assert not aligner.target.requires_grad


# What is kept


@pytest.mark.parametrize(
    ("keep", "settle", "kept"), [("best", 0.0, 1), ("last", 0.0, 3), ("best", 0.6, 2)]
)
def test_the_kept_state_is_the_one_asked_for(keep, settle, kept):
    """Scores 0.1, 0.9, 0.5, 0.2: the second is the best, the third the best from 60 % on."""
    model, (score, seen) = pinsage(), scripted([0.1, 0.9, 0.5, 0.2])
    state = run(model, aligner=aligner_of(), score=score, keep=keep, settle=settle)
    assert not model.training
    assert torch.equal(embed(model, GRAPH), seen[kept])
    assert state.best_score == [0.1, 0.9, 0.5, 0.2][kept]
    assert [point["score"] for point in state.curve] == [0.1, 0.9, 0.5, 0.2]


def test_without_a_map_the_best_state_may_be_an_early_one():
    model, (score, seen) = pinsage(), scripted([0.9, 0.1, 0.5, 0.2])
    run(model, score=score, settle=1.0)
    assert torch.equal(embed(model, GRAPH), seen[0])


def test_without_a_score_the_last_state_is_kept():
    model = pinsage()
    last = {}
    run(model, checkpoint=lambda state: last.update(copy.deepcopy(state.learner["learned"])))
    for name, value in model.state_dict().items():
        assert torch.equal(value, last[f"model.{name}"])


def test_the_last_epoch_is_always_evaluated():
    state = run(pinsage(), epochs=5, evaluate_every=2)
    assert [point["epoch"] for point in state.curve] == [2, 4, 5]


# The same again


def test_the_same_seed_gives_the_same_vectors_to_the_bit():
    def vectors(*, noise, seed):
        torch.manual_seed(noise)
        model, aligner = pinsage(), aligner_of()
        run(model, aligner=aligner, seed=seed)
        return torch.cat([embed(model, GRAPH).flatten(), aligner.matrix.detach().flatten()])

    assert torch.equal(vectors(noise=1, seed=5), vectors(noise=2, seed=5))
    assert not torch.equal(vectors(noise=1, seed=5), vectors(noise=1, seed=6))


def through_a_file(state):
    """As a checkpoint on disk gives it back: tensors and plain values, nothing to unpickle."""
    buffer = io.BytesIO()
    torch.save(asdict(state), buffer)
    buffer.seek(0)
    return FitState(**torch.load(buffer, weights_only=True))


@pytest.mark.parametrize("learn_model", [True, False], ids=["joint", "post-hoc"])
def test_a_fit_cut_off_and_taken_up_again_ends_the_same_to_the_bit(learn_model):
    def start(*, seed, **options):
        model, aligner = pinsage(), aligner_of(seed=seed)
        if learn_model:
            model = pinsage(seed=seed)
        state = run(
            model, aligner=aligner, score=recall, learn_model=learn_model, epochs=6, **options
        )
        return state, embed(model, GRAPH), aligner.matrix.detach()

    saved = []

    def cut_off(state):
        saved.append(through_a_file(state))
        if state.epoch == 3:
            raise KeyboardInterrupt

    whole, z, matrix = start(seed=0)
    with pytest.raises(KeyboardInterrupt):
        start(seed=0, checkpoint=cut_off)
    # Other weights to begin with: all must come from the checkpoint.
    resumed, z_resumed, matrix_resumed = start(seed=1, state=saved[-1])

    assert torch.equal(z_resumed, z)
    assert torch.equal(matrix_resumed, matrix)
    assert resumed.best_score == whole.best_score
    for ours, theirs in zip(resumed.curve, whole.curve, strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}
    assert resumed.seconds >= saved[-1].seconds


def test_a_finished_fit_taken_up_again_only_restores_what_was_kept():
    model, (score, seen) = pinsage(), scripted([0.9, 0.1, 0.5, 0.2])
    state = run(model, score=score)
    again = pinsage(seed=1)
    run(again, score=score, state=through_a_file(state))
    assert torch.equal(embed(again, GRAPH), seen[0])


# What can't go on


def test_a_loss_that_is_not_finite_is_an_error():
    model = pinsage()
    with torch.no_grad():
        model.table.fill_(np.nan)
    with pytest.raises(TrainingError, match="the loss is nan after epoch 1; lower the learning"):
        run(model)


@pytest.mark.parametrize("field", ["epochs", "batch_size", "evaluate_every"])
def test_a_count_below_one_is_refused(field):
    with pytest.raises(UsageError, match=f"{field} must be at least 1, found 0"):
        FitConfig(**{field: 0})


@pytest.mark.parametrize("field", ["learning_rate", "regularisation", "weight"])
@pytest.mark.parametrize("value", [-1e-3, np.nan, np.inf])
def test_a_rate_that_is_negative_or_not_finite_is_refused(field, value):
    with pytest.raises(UsageError, match=field):
        FitConfig(**{field: value})


def test_embedding_leaves_the_mode_and_the_statistics_of_a_model_alone():
    model = pinsage().train()
    before = copy.deepcopy(model.state_dict())
    z = embed(model, GRAPH)
    assert model.training
    assert not z.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(z, model(GRAPH).detach()), "evaluation uses the running statistics"
