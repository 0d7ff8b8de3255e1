"""The state that one step changes, and the state that is evaluated."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from backstay.models.architectures import ARCHITECTURES
from backstay.training.batches import SampledGroups
from backstay.training.config import FitConfig
from backstay.training.learner import ranking_loss
from backstay.training.phase_timer import PhaseTimer
from backstay.training.workers import ALONE
from tests.support.planted import (
    CPU,
    GRAPH,
    SAMPLED,
    SNAPSHOT,
    WHOLE,
    OutOfTouch,
    aligned,
    extended,
    learner_of,
    pinsage,
    random,
    vectors,
)

MODES = [WHOLE, SAMPLED]
NAMES = ["whole", "sampled"]


# The loss


def slow_loss(users, positives, negatives, *, weight, counted=None):
    """One pair, one negative at a time."""
    contrasts = []
    for row, (user, positive) in enumerate(zip(users, positives, strict=True)):
        if counted is None:
            against = [negatives[row]]
        else:
            against = [item for item, counts in zip(negatives, counted[row], strict=True) if counts]
        margins = [functional.softplus(user @ item - user @ positive) for item in against]
        contrasts.append(sum(margins) / max(1, len(against)))
    norms = sum(
        sum(0.5 * (row @ row) for row in rows) / len(rows) for rows in (users, positives, negatives)
    )
    return sum(contrasts) / len(contrasts) + weight * norms


def test_the_loss_is_that_of_its_formula():
    users, positives, negatives = random(3, 7, 4)
    expected = 0.0
    for u, p, n in zip(users, positives, negatives, strict=True):
        norms = (u @ u + p @ p + n @ n).item()
        expected += functional.softplus(u @ n - u @ p).item() + 0.3 * 0.5 * norms
    loss = ranking_loss(users, positives, negatives, weight=0.3)
    assert loss.item() == pytest.approx(expected / 7, rel=1e-5)
    slow = slow_loss(users, positives, negatives, weight=0.3)
    torch.testing.assert_close(loss, slow)


@pytest.mark.parametrize("m", [1, 3, 12])
def test_shared_negatives_are_contrasted_with_every_pair_they_count_for(m):
    users, positives, negatives = random(7, 4), random(7, 4, seed=1), random(m, 4, seed=2)
    counted = random(7, m, seed=3) > -0.5
    counted[2] = False  # a user who has taken them all
    loss = ranking_loss(users, positives, negatives, weight=0.3, counted=counted)
    expected = slow_loss(users, positives, negatives, weight=0.3, counted=counted)
    torch.testing.assert_close(loss, expected)


def test_a_shared_negative_that_a_user_has_taken_pushes_nothing():
    users, positives, negatives = random(2, 4), random(2, 4, seed=1), random(3, 4, seed=2)
    users.requires_grad_()
    negatives.requires_grad_()
    counted = torch.tensor([[True, False, False], [True, False, True]])
    ranking_loss(users, positives, negatives, weight=0.0, counted=counted).backward()
    assert negatives.grad.abs().sum(1).ne(0).tolist() == [True, False, True]


def test_shared_negatives_are_the_same_loss_in_expectation():
    """Over every possible negative, each pair meets the mean of those it may be drawn with."""
    users, positives, items = random(5, 4), random(5, 4, seed=1), random(6, 4, seed=2)
    free = random(5, 6, seed=3) > -0.5
    shared = ranking_loss(users, positives, items, weight=0.0, counted=free)
    means = []
    for row in range(5):
        alone = [
            ranking_loss(users[[row]], positives[[row]], items[[item]], weight=0.0)
            for item in free[row].nonzero().flatten().tolist()
        ]
        means.append(sum(alone) / len(alone))
    torch.testing.assert_close(shared, sum(means) / 5)


@pytest.mark.parametrize("size", [2, 3])
def test_the_loss_of_a_batch_is_the_mean_over_its_shards(size):
    users, positives, negatives = random(7, 4), random(7, 4, seed=1), random(5, 4, seed=2)
    counted = random(7, 5, seed=3) > 0

    def loss(rows):
        return ranking_loss(
            users[rows], positives[rows], negatives, weight=0.3, counted=counted[rows]
        )

    shards = [list(range(rank, 7, size)) for rank in range(size)]
    together = sum(len(rows) / 7 * loss(rows) for rows in shards)
    torch.testing.assert_close(together, loss(list(range(7))))


# Data-parallel steps


@pytest.mark.parametrize("negatives", [0, 5])
@pytest.mark.parametrize(
    ("beside", "learned_beside"),
    [(aligned, "backward"), (extended, "extension")],
    ids=["aligned", "extended"],
)
@pytest.mark.parametrize("mode", MODES, ids=NAMES)
def test_gradients_of_workers_add_up_to_that_of_one(mode, beside, learned_beside, negatives):
    def gradients(rank, size):
        model, options = pinsage(), beside()
        learner = learner_of(model, batch_size=61, negatives=negatives, **options, **mode)
        figures, _ = learner.step(5, OutOfTouch(rank, size), progress=0)
        learned = [*model.named_parameters(), *options[learned_beside].named_parameters()]
        found = {
            name: torch.zeros_like(value) if value.grad is None else value.grad
            for name, value in learned
        }
        return found | {"figures": figures}

    alone = gradients(0, 1)
    for size in (2, 3, 5):  # of 5 workers one has none of the 4 groups
        shares = [gradients(rank, size) for rank in range(size)]
        for name, expected in alone.items():
            together = sum(share[name] for share in shares)
            noise = 1e-5 * expected.abs().max().item()
            torch.testing.assert_close(together, expected, atol=noise, rtol=1e-4)
            if "weight" in name or name == "change":
                assert not torch.allclose(shares[0][name], expected, atol=100 * noise)


# Averaged weights


@pytest.mark.parametrize("mode", MODES, ids=NAMES)
def test_averages_are_running_means_of_the_weights(mode):
    model, options = pinsage(), aligned()
    learner = learner_of(model, average=0.8, learning_rate=0.05, **options, **mode)
    means = None
    for number in range(6):
        learner.step(number, ALONE, progress=0)
        learned = {
            **{f"model.{name}": value.detach() for name, value in model.named_parameters()},
            "backward.weight": options["backward"].weight.detach(),
        }
        if means is None:
            means = {name: value.double() for name, value in learned.items()}
        means = {name: 0.8 * mean + 0.2 * learned[name] for name, mean in means.items()}
    found_state = learner.checkpoint()
    for name, mean in means.items():
        torch.testing.assert_close(found_state[name].double(), mean, atol=1e-6, rtol=1e-5)
        if name != "model.norms.0.bias":
            assert not torch.allclose(found_state[name], learned[name], atol=1e-4)
    learner.finish(found_state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, found_state[f"model.{name}"])
    assert not model.training


@pytest.mark.parametrize("mode", MODES, ids=NAMES)
def test_without_an_average_the_checkpoint_holds_the_weights_themselves(mode):
    model = pinsage()
    learner = learner_of(model, average=0.0, **mode)
    for number in range(3):
        learner.step(number, ALONE, progress=0)
    assert set(learner.dump()) == {"learned", "optimiser"}
    for name, value in learner.checkpoint().items():
        assert torch.equal(value, model.state_dict()[name.removeprefix("model.")])


def seen_by_norms(model, graph):
    """What each batch norm sees of a graph in training: mean and variance of its inputs."""
    seen = []
    hooks = [
        norm.register_forward_pre_hook(
            lambda _, inputs: seen.append((inputs[0].mean(0), inputs[0].var(0)))
        )
        for norm in model.norms
    ]
    with torch.no_grad():
        copy.deepcopy(model).train()(graph)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    ("mode", "average"),
    [(WHOLE, 0.8), (SAMPLED, 0.8), (SAMPLED, 0.0)],
    ids=["whole", "sampled", "sampled-plain"],
)
def test_a_refreshed_state_has_the_batch_norm_statistics_of_its_own_weights(mode, average):
    model = pinsage()
    config = {"average": average, "learning_rate": 0.05, "batch_size": 64, **mode}
    learner = learner_of(model, **config)
    for number in range(5):
        learner.step(number, ALONE, progress=0)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    learner.refresh_batch_norm()
    found_state = {
        name.removeprefix("model."): value for name, value in learner.checkpoint().items()
    }

    judged = pinsage()
    judged.load_state_dict(found_state)
    graphs = [GRAPH]
    if mode is SAMPLED:
        source = SampledGroups(
            SNAPSHOT, judged, FitConfig(**config), device=CPU, timer=PhaseTimer()
        )
        graphs = list(source.calibration())
    seen = [seen_by_norms(judged, graph) for graph in graphs]
    for layer in range(2):
        for place, statistic in enumerate(("mean", "var")):
            expected = torch.stack([layers[layer][place] for layers in seen]).mean(0)
            found = found_state[f"norms.{layer}.running_{statistic}"]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    # What is learned from goes on as it was.
    for name, value in model.named_parameters():
        assert torch.equal(value, weights[name])
    assert model.training


def test_a_plain_fit_of_the_whole_graph_leaves_the_statistics_it_gathered():
    model = pinsage()
    learner = learner_of(model, **WHOLE)
    learner.step(0, ALONE, progress=0)
    before = copy.deepcopy(model.state_dict())
    learner.refresh_batch_norm()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("average", [0.0, 0.8])
@pytest.mark.parametrize("mode", MODES, ids=NAMES)
def test_an_extended_model_is_judged_by_the_vectors_it_would_end_with(mode, average):
    model, options = pinsage(), extended()
    learner = learner_of(model, average=average, learning_rate=0.05, **options, **mode)
    for number in range(4):
        learner.step(number, ALONE, progress=0)
    learner.refresh_batch_norm()
    shown = []
    learner.evaluate(lambda z: shown.append(z) or 0.5)
    learner.finish(learner.checkpoint())
    joined = torch.cat([options["teacher"].table, vectors(model)], dim=1)
    expected = joined @ options["extension"].basis.detach().T
    torch.testing.assert_close(shown[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("mode", MODES, ids=NAMES)
def test_the_checkpoint_is_the_state_that_is_evaluated(architecture, mode):
    model = pinsage(architecture=architecture)
    learner = learner_of(model, average=0.9, learning_rate=0.05, **mode)
    for number in range(4):
        learner.step(number, ALONE, progress=0)
    learner.refresh_batch_norm()
    shown = []
    assert learner.evaluate(lambda z: shown.append(z) or 0.5) == 0.5
    learner.finish(learner.checkpoint())
    assert torch.equal(vectors(model), shown[0])


# Rates


def test_each_step_is_taken_at_the_rate_of_its_schedule():
    """The first step of Adam moves a weight by its rate, whatever the gradient."""
    for progress in (0.0, 0.1, 0.55):
        options = aligned()
        before = options["backward"].weight.detach().clone()
        learner = learner_of(pinsage(), learning_rate=0.2, schedule="cosine", **WHOLE, **options)
        learner.step(0, ALONE, progress=progress)
        moved = (options["backward"].weight.detach() - before).abs()
        rate = FitConfig(learning_rate=0.2, schedule="cosine").rate(progress)
        np.testing.assert_allclose(moved, rate, rtol=1e-3)
