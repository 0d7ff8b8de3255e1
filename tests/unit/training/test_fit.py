import copy
import io
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from backstay.compat.losses import multi_step, single_step
from backstay.datasets.dataset import Attributes
from backstay.errors import TrainingError, UsageError
from backstay.evaluation.metrics.ranking import RankingTask
from backstay.models.architectures import build_model, model_weights
from backstay.models.inference import embed
from backstay.models.protocol import EmbeddingModel, ModelConfig
from backstay.models.snapshot import Snapshot
from backstay.training import fit as module
from backstay.training.alignment import Alignment, alignment_residual, fresh_map
from backstay.training.config import FitConfig
from backstay.training.fit import FitState, fit
from backstay.training.learner import Networks, ranking_loss
from backstay.training.sampling import TripleSampler
from backstay.training.teacher import Teacher
from backstay.training.workers import Workers
from tests.support.planted import (
    EDGES,
    NODES,
    SAMPLED,
    SNAPSHOT,
    STEP,
    WHOLE,
    OutOfTouch,
    aligned,
    extended,
    pinsage,
    random,
    recall,
    run,
    vectors,
)
from tests.support.snapshots import planted_snapshot

STEPS = -(-EDGES // 64)  # of an epoch


class FreeVectors(EmbeddingModel):
    """The plainest model there is: a vector per node, and nothing between them."""

    def __init__(self, dim, *, seed=0):
        super().__init__(ModelConfig(dim=dim, layers=1))
        self.z = nn.Parameter(random(NODES, dim, seed=seed))

    def start(self, inputs):
        return inputs

    def layer(self, number, h, matrix):
        del number, h
        assert matrix.shape[0] == NODES
        return self.z

    def inherit(self, older, rows):
        raise NotImplementedError


def scripted(values):
    """A score that says `values` one after another, and keeps the vectors it was shown."""
    remaining, seen = iter(values), []

    def score(z):
        seen.append(z.clone())
        return next(remaining)

    return score, seen


# Learning


@pytest.mark.parametrize(
    ("mode", "negatives"),
    [(WHOLE, 0), (WHOLE, 12), (SAMPLED, 12)],
    ids=["whole", "whole-shared", "sampled-shared"],
)
def test_planted_tastes_are_learned(mode, negatives):
    model = pinsage(16)
    before = recall(vectors(model))
    run(
        model,
        score=recall,
        epochs=40,
        learning_rate=0.01,
        evaluate_every=10,
        negatives=negatives,
        **mode,
    )
    assert before < 0.5
    assert recall(vectors(model)) > 0.95


@pytest.mark.parametrize("negatives", [0, 9])
@pytest.mark.parametrize("loss", ["single", "multi"])
def test_alignment_is_summed_over_users_positives_and_negatives(loss, negatives):
    """The first step's loss, recomputed by role from the same draws."""
    model, options = FreeVectors(8), aligned(loss=loss)
    state = run(
        model,
        epochs=1,
        batch_size=10_000,
        learning_rate=0.0,
        weight=3.0,
        negatives=negatives,
        **options,
    )
    rng = np.random.default_rng((42, 0))
    batch = TripleSampler(SNAPSHOT).draw(10_000, rng, negatives=negatives)
    roles = torch.from_numpy(batch.nodes(STEP.n_users)).split([10_000, 10_000, negatives or 10_000])
    matrix, z, expected = options["backward"].weight.detach(), model.z.detach(), 0.0
    for nodes in roles:
        residual = options["teacher"].table[nodes] - z[nodes] @ matrix.T
        older = [random(5, 6, seed=8)]
        expected += (
            single_step(residual) if loss == "single" else multi_step(residual, older)
        ).item()
    counted = torch.from_numpy(batch.counted) if negatives else None
    ranking = ranking_loss(*(z[nodes] for nodes in roles), weight=1e-2, counted=counted).item()
    assert state.curve[0]["alignment"] == pytest.approx(expected, rel=1e-5)
    assert state.curve[0]["loss"] == pytest.approx(ranking + 3.0 * expected, rel=1e-5)


@pytest.mark.parametrize("mode", [WHOLE, SAMPLED], ids=["whole", "sampled"])
def test_a_joint_fit_lowers_the_alignment_residual_and_learns_both(mode):
    model, options = pinsage(), aligned()
    backward, teacher = options["backward"], options["teacher"].table
    weights, matrix = copy.deepcopy(model_weights(model)), backward.weight.detach().clone()
    before = alignment_residual(backward, vectors(model), teacher)
    state = run(model, epochs=20, learning_rate=0.02, **options, **mode)
    assert alignment_residual(backward, vectors(model), teacher) < 0.8 * before
    assert state.curve[-1]["alignment"] < state.curve[0]["alignment"]
    assert (model_weights(model)["table"] != weights["table"]).any()
    assert not torch.equal(backward.weight, matrix)


@pytest.mark.parametrize("mode", [WHOLE, SAMPLED], ids=["whole", "sampled"])
def test_a_model_built_onto_random_vectors_learns_and_leaves_them_unchanged(mode):
    model, options = pinsage(), extended()
    extension, teacher = options["extension"], options["teacher"].table
    before, basis = teacher.clone(), extension.basis.detach().clone()

    def found():
        return recall(extension.whole(teacher, vectors(model)))

    start = found()
    state = run(model, score=recall, epochs=20, learning_rate=0.03, **options, **mode)
    assert torch.equal(teacher, before)
    assert not torch.equal(extension.basis, basis)
    assert found() == pytest.approx(state.best_score)
    assert start < 0.5
    assert found() > 0.8


# Maps fitted afterwards


@pytest.mark.parametrize("loss", ["single", "multi"])
@pytest.mark.parametrize("planted", ["rotation", "projection"])
def test_a_planted_map_is_recovered_and_the_model_left_alone(loss, planted):
    model = FreeVectors(8)
    if planted == "rotation":
        truth = torch.linalg.qr(random(8, 8, seed=3))[0]
    else:
        truth = random(5, 8, seed=3)
    teacher = model.z.detach() @ truth.T
    backward = fresh_map(8, len(truth), seed=0)
    before = model.z.detach().clone()
    state = run(
        model,
        alignment=Alignment(older_maps=[random(4, len(truth), seed=4)], loss=loss),
        backward=backward,
        teacher=Teacher(teacher),
        train_model=False,
        epochs=80,
        batch_size=16,
        learning_rate=0.03,
        evaluate_every=10,
    )
    torch.testing.assert_close(backward.weight.detach(), truth, atol=1e-2, rtol=0)
    assert torch.equal(model.z, before)
    assert -state.best_score == pytest.approx(
        alignment_residual(backward, before, teacher), rel=1e-5
    )


@pytest.mark.parametrize("mode", [WHOLE, SAMPLED], ids=["whole", "sampled"])
def test_a_post_hoc_fit_leaves_every_part_of_a_model_as_it_was(mode):
    model = pinsage().train()
    before = copy.deepcopy(model.state_dict())
    run(model, train_model=False, average=0.9, **aligned(), **mode)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# The selected checkpoint


@pytest.mark.parametrize("average", [0.0, 0.5])
@pytest.mark.parametrize(
    ("keep", "starts", "selected"), [("best", 0.0, 1), ("last", 0.0, 3), ("best", 0.6, 2)]
)
def test_the_selected_checkpoint_is_the_one_asked_for(keep, starts, selected, average):
    """Scores 0.1, 0.9, 0.5, 0.2: the second is the best, the third the best from 60 % on."""
    model, (score, seen) = pinsage(), scripted([0.1, 0.9, 0.5, 0.2])
    state = run(
        model, score=score, keep=keep, selection_starts_after=starts, average=average, **aligned()
    )
    assert not model.training
    assert torch.equal(vectors(model), seen[selected])
    assert state.best_score == [0.1, 0.9, 0.5, 0.2][selected]
    assert [point["score"] for point in state.curve] == [0.1, 0.9, 0.5, 0.2]


def test_without_a_map_the_best_state_may_be_an_early_one():
    model, (score, seen) = pinsage(), scripted([0.9, 0.1, 0.5, 0.2])
    run(model, score=score, selection_starts_after=1.0)
    assert torch.equal(vectors(model), seen[0])


def test_without_a_score_the_last_checkpoint_is_selected():
    model = pinsage()
    last = {}
    run(model, checkpoint=lambda state: last.update(copy.deepcopy(state.learner["learned"])))
    for name, value in model.state_dict().items():
        assert torch.equal(value, last[f"model.{name}"])


def test_the_last_epoch_is_always_evaluated():
    state = run(pinsage(), epochs=5, evaluate_every=2)
    assert [point["epoch"] for point in state.curve] == [2, 4, 5]
    assert state.step == 5 * STEPS


def test_the_loss_of_an_evaluation_is_the_mean_since_the_last_one():
    """At rate 0 the vectors stay the same, so the epochs differ by their draws alone."""
    one, two = (
        run(FreeVectors(8), epochs=4, evaluate_every=every, learning_rate=0.0, **aligned()).curve
        for every in (1, 2)
    )
    for name in ("loss", "alignment"):
        expected = [(first[name] + second[name]) / 2 for first, second in (one[:2], one[2:])]
        assert [point[name] for point in two] == pytest.approx(expected, rel=1e-5)
    assert len({point["loss"] for point in one}) == 4


# The same again


def test_the_same_seed_gives_the_same_vectors_to_the_bit():
    def found(*, noise, seed, mode):
        torch.manual_seed(noise)
        model, options = pinsage(), aligned()
        run(model, seed=seed, **options, **mode)
        return torch.cat([vectors(model).flatten(), options["backward"].weight.detach().flatten()])

    for mode in (WHOLE, SAMPLED):
        first = found(noise=1, seed=5, mode=mode)
        assert torch.equal(first, found(noise=2, seed=5, mode=mode))
        assert not torch.equal(first, found(noise=1, seed=6, mode=mode))


def through_a_file(state):
    """As a checkpoint on disk gives it back: tensors and plain values, nothing to unpickle."""
    buffer = io.BytesIO()
    torch.save(asdict(state), buffer)
    buffer.seek(0)
    return FitState(**torch.load(buffer, weights_only=True))


@pytest.mark.parametrize("stop", [1, 2 * STEPS - 1, 2 * STEPS, 2 * STEPS + 1])
@pytest.mark.parametrize("kind", ["whole", "sampled", "averaged", "post-hoc", "extended"])
def test_a_fit_cut_off_and_taken_up_again_ends_the_same_to_the_bit(kind, stop):
    """After the first step, before, at and after an evaluation."""
    config = {
        "whole": WHOLE,
        "sampled": SAMPLED | {"negatives": 5, "average": 0.8},
        "averaged": WHOLE | {"average": 0.8, "schedule": "cosine"},
        "post-hoc": WHOLE | {"train_model": False},
        "extended": SAMPLED | {"average": 0.8},
    }[kind]

    def start(*, seed, **options):
        model = pinsage(seed=0 if kind == "post-hoc" else seed)
        beside = extended(seed=seed) if kind == "extended" else aligned(seed=seed)
        state = run(model, score=recall, learning_rate=0.01, **beside, **config, **options)
        learned = beside["extension"].change if kind == "extended" else beside["backward"].weight
        return state, vectors(model), learned.detach()

    saved = []

    def cut_off(state):
        saved.append(through_a_file(state))
        if state.step == stop:
            raise KeyboardInterrupt

    whole, z, matrix = start(seed=0)
    with pytest.raises(KeyboardInterrupt):
        start(seed=0, checkpoint=cut_off, checkpoint_seconds=0)
    assert [state.step for state in saved] == list(range(1, stop + 1))
    # Other weights to begin with: all must come from the checkpoint.
    resumed, z_resumed, matrix_resumed = start(seed=1, state=saved[-1])

    assert torch.equal(z_resumed, z)
    assert torch.equal(matrix_resumed, matrix)
    assert resumed.best_score == whole.best_score
    assert resumed.losses == whole.losses == []
    for name, value in whole.best.items():
        assert torch.equal(resumed.best[name], value)
    for ours, theirs in zip(resumed.curve, whole.curve, strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}
    assert resumed.seconds >= saved[-1].seconds
    for phase, seconds in saved[-1].phases.items():
        assert resumed.phases[phase] >= seconds


@pytest.mark.parametrize("average", [0.0, 0.8])
def test_a_state_holds_all_that_a_later_step_depends_on(average):
    """Two fits that have come the same way have the same state, after a file and without."""
    config = SAMPLED | {"average": average}
    states, later = {}, {}
    run(
        pinsage(),
        score=recall,
        checkpoint=lambda state: states.update({state.step: through_a_file(state)}),
        checkpoint_seconds=0,
        **config,
    )
    run(
        pinsage(seed=1),
        score=recall,
        state=states[STEPS + 1],
        checkpoint=lambda state: later.update({state.step: through_a_file(state)}),
        checkpoint_seconds=0,
        **config,
    )
    assert set(later) == set(range(STEPS + 2, 4 * STEPS + 1))
    for step, state in later.items():
        assert state.losses == states[step].losses
        assert ("average" in state.learner) == bool(average)
        for part, expected in states[step].learner.items():
            if part == "optimiser":
                assert state.learner[part]["param_groups"] == expected["param_groups"]
                pairs = [
                    (state.learner[part]["state"][place][name], value)
                    for place, moments in expected["state"].items()
                    for name, value in moments.items()
                ]
            else:
                pairs = [(state.learner[part][name], value) for name, value in expected.items()]
            assert pairs
            assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_a_finished_fit_taken_up_again_only_restores_the_selected_checkpoint():
    model, (score, seen) = pinsage(), scripted([0.9, 0.1, 0.5, 0.2])
    state = run(model, score=score)
    again = pinsage(seed=1)
    run(again, score=score, state=through_a_file(state))
    assert torch.equal(vectors(again), seen[0])


def test_checkpoints_come_with_every_evaluation_and_as_often_as_asked_for():
    for seconds, expected in (
        (float("inf"), [2 * STEPS, 4 * STEPS]),
        (0, list(range(1, 4 * STEPS + 1))),
    ):
        steps = []
        run(
            pinsage(),
            evaluate_every=2,
            checkpoint=lambda state, steps=steps: steps.append(state.step),
            checkpoint_seconds=seconds,
        )
        assert steps == expected


# Progress


@pytest.fixture
def talkative(monkeypatch):
    monkeypatch.setattr(module, "WATCH_SECONDS", -1.0)


def test_a_fit_reports_its_progress(talkative):
    del talkative
    reported = []
    state = run(pinsage(), score=recall, watch=reported.append, **aligned())
    assert [progress.step for progress in reported] == list(range(1, 4 * STEPS + 1))
    assert {(progress.steps, progress.epochs) for progress in reported} == {(4 * STEPS, 4)}
    assert [progress.epoch for progress in reported] == pytest.approx(
        [step / STEPS for step in range(1, 4 * STEPS + 1)]
    )
    assert all(a.seconds <= b.seconds for a, b in pairwise(reported))
    assert all(progress.remaining > 0 for progress in reported[:-1])
    assert reported[-1].remaining == 0
    assert all(progress.rate > 0 for progress in reported)
    points = [progress for progress in reported if progress.score is not None]
    for progress, point in zip(points, state.curve, strict=True):
        for name in ("epoch", "score", "loss", "alignment", "seconds"):
            assert getattr(progress, name) == pytest.approx(point[name])


def test_evaluations_are_reported_at_once_and_steps_now_and_then():
    reported = []
    run(pinsage(), watch=reported.append)
    assert [progress.step for progress in reported] == [STEPS, 2 * STEPS, 3 * STEPS, 4 * STEPS]


def test_one_worker_reports_for_all(talkative):
    del talkative
    reported = {0: [], 1: []}
    judged = {0: [], 1: []}
    for rank, words in reported.items():
        run(
            pinsage(),
            workers=OutOfTouch(rank, 2),
            watch=words.append,
            score=lambda z, rank=rank: judged[rank].append(z) or 0.0,
        )
    assert len(reported[0]) == 4 * STEPS
    assert len(judged[0]) == 4
    assert reported[1] == judged[1] == []


@pytest.mark.parametrize("mode", [WHOLE, SAMPLED], ids=["whole", "sampled"])
def test_seconds_are_reported_by_phase(mode):
    state = run(pinsage(), score=recall, average=0.5, **aligned(), **mode)
    phases = {"data", "forward", "backward", "update", "evaluation"}
    assert phases | ({"sampling"} if mode is SAMPLED else set()) <= set(state.phases)
    assert all(seconds > 0 for seconds in state.phases.values())
    assert sum(state.phases.values()) <= state.seconds


# Samples instead of the whole graph


def test_sampled_neighbours_teach_what_the_whole_graph_does():
    """Items with users and no attributes; a layer samples two of three users."""
    step, attributes = planted_snapshot(groups=8, users=15, items=10)
    snapshot = Snapshot.of(step, Attributes(attributes.kinds[1:]))
    task, users = RankingTask.of(step), step.n_users
    config = FitConfig(epochs=20, batch_size=256, learning_rate=0.02, evaluate_every=20)

    def reached(mode):
        found = []
        for seed in range(3):
            model = build_model(ModelConfig(dim=16, values=(step.n_items,)), seed=seed)
            fit(snapshot, Networks(model=model), replace(config, seed=seed, **mode))
            z = embed(model, snapshot)
            found.append(task.recall(z[:users], z[users:], k=5).mean)
        return np.mean(found)

    whole = reached(WHOLE)
    assert whole > 0.9
    assert reached(SAMPLED | {"fan_out": 5, "group_size": 64}) > whole - 0.05


# What can't go on


def test_a_loss_that_is_not_finite_is_an_error():
    model = pinsage()
    with torch.no_grad():
        model.table.fill_(np.nan)
    with pytest.raises(
        TrainingError, match="expected a finite loss, found nan after step 1; lower the learning"
    ):
        run(model)


@pytest.mark.parametrize(
    ("mode", "what"),
    [(WHOLE | {"batch_size": 4}, "batch_size"), (SAMPLED, "groups")],
    ids=["whole", "sampled"],
)
def test_more_workers_than_parts_are_refused(mode, what):
    message = (
        f"{what}: expected .* found 4 parts for 5 workers. Raise {what}, or start fewer workers"
    )
    with pytest.raises(UsageError, match=message):
        run(pinsage(), workers=Workers(0, 5), **mode)
    # A map that is fitted afterwards takes no samples.
    if what == "groups":
        run(pinsage(), workers=OutOfTouch(0, 5), train_model=False, epochs=1, **aligned(), **mode)


def test_a_step_of_groups_learns_from_all_of_their_triples():
    steps = []
    for size in (8, 16):
        config = SAMPLED | {"group_size": size, "batch_size": 2}
        steps.append(run(pinsage(), epochs=1, **config).step)
    assert steps == [-(-EDGES // 32), -(-EDGES // 64)]


def test_a_fit_ends_after_the_most_steps_it_may_take():
    reported = []
    state = run(pinsage(), epochs=50, most_steps=3, watch=reported.append)
    assert state.step == reported[-1].step == reported[-1].steps == 3
    assert state.curve[-1]["epoch"] == pytest.approx(reported[-1].epochs)
