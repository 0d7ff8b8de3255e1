"""One version from arrays to arrays, by every method of the table."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from backstay.compat.methods import METHODS
from backstay.datasets.dataset import Dataset
from backstay.datasets.timeline import steps
from backstay.errors import MapMismatchError, UsageError
from backstay.evaluation.metrics.ranking import RankingTask
from backstay.training.alignment import Alignment
from backstay.training.config import FitConfig
from backstay.training.prepared import prepare as prepare_request
from backstay.training.request import FitRequest, Predecessor, VersionPlan
from backstay.training.version import VersionCallbacks
from backstay.training.version import fit_version as fit_request
from tests.support.planted import taken

FIT = FitConfig(epochs=4, evaluate_every=2)


@pytest.fixture(scope="module")
def world(dataset):
    opened = Dataset.open(dataset)
    interactions = opened.interactions()
    return steps(interactions), opened.attributes(interactions.item_ids)


def plan(method, dim, **options):
    return VersionPlan(
        **({"dim": dim, "layers": 2, "fit": FIT, "map_epochs": 3} | options), method=METHODS[method]
    )


def fit_version(step, attributes, plan, *, previous, fitted=None, score, **options):
    request = request_of(step, attributes, plan, previous=previous, fitted=fitted)
    return fit_request(request, score=score, **options)


def prepare(step, attributes, plan, *, previous):
    return prepare_request(request_of(step, attributes, plan, previous=previous))


def request_of(step, attributes, plan, **others):
    return FitRequest(step=step, attributes=attributes, plan=plan, **others)


def second(method, world, first, **options):
    """Version 1 by a method, without a score."""
    timeline, attributes = world
    states = options.pop("states", None)
    callbacks = VersionCallbacks(**taken(options, ("checkpoint", "watch")))
    return fit_version(
        timeline[1],
        attributes,
        plan(method, options.pop("dim", 12), **options),
        previous=Predecessor(first.model, ()),
        score=None,
        states=states,
        callbacks=callbacks,
    )


@pytest.fixture(scope="module")
def first(world):
    timeline, attributes = world
    return fit_version(timeline[0], attributes, plan("no-bc", 8), previous=None, score=None)


def test_version_0_is_the_same_for_every_method_and_has_no_map(world, first):
    timeline, attributes = world
    for method in METHODS:
        again = fit_version(timeline[0], attributes, plan(method, 8), previous=None, score=None)
        assert again.matrix is None
        for name, value in first.model.weights.items():
            np.testing.assert_array_equal(again.model.weights[name], value)


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("fix-m0", (8, 8)),
        ("finetune", (8, 8)),
        ("no-bc", None),
        ("joint-identity", (8, 12)),
        ("joint-linear-single", (8, 12)),
        ("bc-aligner", (8, 12)),
        ("backstay", (8, 12)),
    ],
)
def test_a_later_version_has_the_map_of_its_method(world, first, method, shape):
    timeline, attributes = world
    fitted = second(method, world, first)
    assert (fitted.matrix.shape if fitted.matrix is not None else None) == shape
    nodes = timeline[1].n_users + timeline[1].n_items
    dim = 8 if shape == (8, 8) else 12
    assert fitted.model.embed(timeline[1], attributes).shape == (nodes, dim)
    if METHODS[method].map == "identity":
        np.testing.assert_array_equal(fitted.matrix, np.eye(8, dim))


def test_a_model_is_shared_with_maps_of_any_kind(world, first):
    """Methods that fit a map afterwards have the model of no-bc."""
    scratch = second("no-bc", world, first).model
    for method in (name for name, row in METHODS.items() if row.posthoc):
        fitted = second(method, world, first, map_epochs=1)
        for name, value in scratch.weights.items():
            np.testing.assert_array_equal(fitted.model.weights[name], value)
        if METHODS[method].publishable:
            assert fitted.matrix.shape == (8, 12)
        else:
            with pytest.raises(MapMismatchError, match="compared, not published"):
                _ = fitted.matrix


def test_a_finished_model_handed_in_only_gets_its_map(world, first):
    timeline, attributes = world
    previous = Predecessor(first.model, ())
    plain = fit_version(timeline[1], attributes, plan("no-bc", 12), previous=None, score=None)
    whole, mapped = (
        fit_version(
            timeline[1],
            attributes,
            plan("posthoc-linear-single", 12),
            previous=previous,
            score=None,
            fitted=fitted,
        )
        for fitted in (None, plain.model)
    )
    assert mapped.model is plain.model
    assert set(mapped.curves) == {"map"}
    np.testing.assert_array_equal(mapped.matrix, whole.matrix)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_teacher_has_snapshots_only_where_the_fit_samples(world, first, method):
    timeline, attributes = world
    previous, seen = Predecessor(first.model, ()), {}
    for sampling in ("full", "neighbours"):
        chosen = plan(method, 12, fit=replace(FIT, sampling=sampling))
        prepared = prepare(timeline[1], attributes, chosen, previous=previous)
        seen[sampling] = [snapshot.n_values for snapshot in prepared.teacher_snapshots]
    values = 1 + sum(map(len, first.model.vocabulary.values()))
    beside = METHODS[method].joint or METHODS[method].model == "extended"
    assert seen == {"full": [], "neighbours": [values] if beside else []}


def test_an_old_model_embeds_a_later_snapshot_with_its_own_values(world, first):
    timeline, attributes = world
    later = timeline[4]
    known = first.model.vocabulary
    now = attributes.vocabulary(items=later.n_items)
    assert any(len(now[kind]) > len(known[kind]) for kind in now)
    z = first.model.embed(later, attributes)
    assert z.shape == (later.n_users + later.n_items, 8)
    assert np.isfinite(z).all()


# What was made before


@pytest.mark.parametrize(
    "method", ["no-bc", "posthoc-linear-single", "posthoc-procrustes", "bc-aligner", "backstay"]
)
@pytest.mark.parametrize("sampling", ["full", "neighbours"])
def test_inputs_that_were_prepared_elsewhere_change_nothing(world, first, method, sampling):
    timeline, attributes = world
    chosen = plan(method, 12, fit=replace(FIT, sampling=sampling))
    previous = Predecessor(first.model, ())
    prepared = prepare(timeline[1], attributes, chosen, previous=previous)
    assert (prepared.teacher_z is None) == (not METHODS[method].needs_teacher)
    if prepared.teacher_z is not None:
        np.testing.assert_array_equal(
            prepared.teacher_z, first.model.embed(timeline[1], attributes)
        )
        prepared.teacher_z.setflags(write=False)  # as an object store hands it out
    here, there = (
        fit_version(timeline[1], attributes, chosen, previous=previous, score=None, prepared=inputs)
        for inputs in (None, prepared)
    )
    for name, value in here.model.weights.items():
        np.testing.assert_array_equal(there.model.weights[name], value)
    if here.matrix is not None:
        np.testing.assert_array_equal(there.matrix, here.matrix)


@pytest.mark.parametrize("method", ["posthoc-linear-single", "bc-aligner", "backstay"])
def test_a_version_cut_off_in_any_phase_ends_the_same(world, first, method):
    """From the state after every evaluation, of the model and of the map."""
    saved = []
    whole = second(
        method, world, first, checkpoint=lambda states: saved.append(copy.deepcopy(states))
    )
    phases = ["model", "model"] + (["map"] * 2 if METHODS[method].posthoc else [])
    assert [next(reversed(states)) for states in saved] == phases
    for states in saved:
        resumed = second(method, world, first, states=states)
        np.testing.assert_array_equal(resumed.matrix, whole.matrix)
        for name, value in whole.model.weights.items():
            np.testing.assert_array_equal(resumed.model.weights[name], value)
        for phase, curve in whole.curves.items():
            for ours, theirs in zip(resumed.curves[phase], curve, strict=True):
                assert ours | {"seconds": 0} == theirs | {"seconds": 0}


def test_a_version_s_older_maps_and_loss_are_those_of_its_method(world, first, monkeypatch):
    seen = []

    class Noted(Alignment):
        def __init__(self, **options):
            seen.append(([m.shape for m in options["older_maps"]], options["loss"]))
            super().__init__(**options)

    monkeypatch.setattr("backstay.training.version.Alignment", Noted)
    timeline, attributes = world
    older = np.ones((5, 8), np.float32)
    for method in ("posthoc-linear-single", "bc-aligner"):
        fit_version(
            timeline[1],
            attributes,
            plan(method, 12, map_epochs=1, fit=replace(FIT, epochs=1)),
            previous=Predecessor(first.model, (older,)),
            score=None,
        )
    assert seen == [([(5, 8)], "single"), ([(5, 8)], "multi")]


# How it went


def test_a_report_is_json_and_has_every_phase(world, first):
    timeline, attributes = world
    task = RankingTask.of(timeline[1])
    users = timeline[1].n_users
    fitted = fit_version(
        timeline[1],
        attributes,
        plan("posthoc-linear-single", 12),
        previous=Predecessor(first.model, ()),
        score=lambda z: task.recall(z[:users], z[users:]).mean,
    )
    report = json.loads(json.dumps(fitted.report, allow_nan=False))
    assert set(report["phases"]) == {"model", "map"}
    assert report["seconds"] == fitted.seconds > 0
    spent = 0.0
    for phase in report["phases"].values():
        assert [point["epoch"] for point in phase["curve"]] == sorted(
            {point["epoch"] for point in phase["curve"]}
        )
        assert all({"loss", "alignment", "score", "seconds"} <= set(p) for p in phase["curve"])
        assert {"data", "forward", "backward", "update", "evaluation"} <= set(phase["seconds_by"])
        spent += sum(phase["seconds_by"].values())
    assert spent <= report["seconds"]


def test_progress_names_the_phase(world, first):
    reported = []
    second(
        "posthoc-linear-single",
        world,
        first,
        watch=lambda phase, progress: reported.append((phase, progress.epoch, progress.epochs)),
    )
    assert reported == [("model", 2, 4), ("model", 4, 4), ("map", 2, 3), ("map", 3, 3)]


# Beginning with the version before


WARM = FitConfig(
    epochs=4, warm_epochs=1, warm_rate=0.0, evaluate_every=1, warm_start=True, output_scale=0.5
)


def test_a_warm_start_is_the_version_before_and_a_map_back_to_it(world, first):
    """Nothing is learned at rate 0, so that what it began with is what it ends with."""
    fitted = second("bc-aligner", world, first, fit=WARM)
    assert [point["epoch"] for point in fitted.curves["model"]] == [1]
    np.testing.assert_array_equal(fitted.matrix, np.eye(8, 12))
    for layer in range(2):
        ours, theirs = (
            model.weights[f"layers.{layer}.weight"].reshape(2, dim, dim)
            for model, dim in ((fitted.model, 12), (first.model, 8))
        )
        np.testing.assert_array_equal(ours[:, :8, :8], theirs)
        np.testing.assert_array_equal(ours[:, :8, 8:], 0)
    np.testing.assert_array_equal(
        fitted.model.weights["norms.1.weight"][:8], first.model.weights["norms.1.weight"]
    )


@pytest.mark.parametrize("method", ["no-bc", "posthoc-linear-single"])
def test_only_joint_methods_start_warm(world, first, method):
    ours, cold = (
        second(method, world, first, fit=replace(WARM, warm_start=warm)) for warm in (True, False)
    )
    assert [point["epoch"] for point in ours.curves["model"]] == [1, 2, 3, 4]
    for name, value in cold.model.weights.items():
        np.testing.assert_array_equal(ours.model.weights[name], value)


def test_what_can_t_start_warm_starts_cold(world, first):
    """A version that is narrower than the one before."""
    timeline, attributes = world
    ours, cold = (
        fit_version(
            timeline[1],
            attributes,
            plan("bc-aligner", 7, fit=replace(WARM, warm_start=warm)),
            previous=Predecessor(first.model, ()),
            score=None,
        )
        for warm in (True, False)
    )
    assert [point["epoch"] for point in ours.curves["model"]] == [1, 2, 3, 4]
    np.testing.assert_array_equal(ours.matrix, cold.matrix)


def test_a_first_version_starts_at_the_scale_asked_for(world):
    timeline, attributes = world
    frozen = replace(WARM, epochs=1, learning_rate=0.0)
    plain, scaled = (
        fit_version(
            timeline[0], attributes, plan("bc-aligner", 8, fit=config), previous=None, score=None
        ).model.weights
        for config in (replace(frozen, output_scale=1.0), replace(frozen, table_scale=0.25))
    )
    np.testing.assert_allclose(scaled["table"], 0.25 * plain["table"])
    np.testing.assert_allclose(scaled["norms.1.weight"], 0.5 * plain["norms.1.weight"])


# Built onto the version before


@pytest.mark.parametrize("sampling", ["full", "neighbours"])
def test_versions_built_onto_one_another_lead_back_exactly(world, sampling):
    timeline, attributes = world
    fit = replace(FIT, epochs=2, sampling=sampling, average=0.5, learning_rate=0.05)
    models, matrices = [], []
    for number, dim in enumerate((6, 8, 11)):
        fitted = fit_version(
            timeline[number],
            attributes,
            plan("backstay", dim, fit=fit),
            previous=Predecessor(models[-1], ()) if models else None,
            score=None,
        )
        models.append(fitted.model)
        if number:
            matrices.append(fitted.matrix)
            assert fitted.model.base is models[-2]
    assert [model.dim for model in models] == [6, 8, 11]
    assert [matrix.shape for matrix in matrices] == [(6, 8), (8, 11)]
    newest, below, oldest = (model.embed(timeline[2], attributes) for model in reversed(models))
    np.testing.assert_allclose(newest @ matrices[1].T, below, atol=1e-4)
    np.testing.assert_allclose(newest @ matrices[1].T @ matrices[0].T, oldest, atol=1e-4)
    # Which would be no feat if nothing had been learned.
    assert np.abs(newest[:, :8] - below).max() > 0.01


def test_a_version_is_judged_by_the_vectors_that_it_publishes(world, first):
    timeline, attributes = world
    task, users, seen = RankingTask.of(timeline[1]), timeline[1].n_users, []

    def score(z):
        seen.append((task.recall(z[:users], z[users:]).mean, z.numpy().copy()))
        return seen[-1][0]

    fitted = fit_version(
        timeline[1],
        attributes,
        plan("backstay", 12),
        previous=Predecessor(first.model, ()),
        score=score,
    )
    _, shown = max(seen, key=lambda pair: pair[0])  # FIT keeps the best
    np.testing.assert_allclose(fitted.model.embed(timeline[1], attributes), shown, atol=1e-5)


def test_a_version_built_onto_another_lasts_as_long_as_it_is_asked_to(world, first):
    fitted = second("backstay", world, first, fit=replace(FIT, extension_epochs=2))
    assert [point["epoch"] for point in fitted.curves["model"]] == [2]


@pytest.mark.parametrize("dim", [7, 8])
def test_a_version_built_onto_another_is_wider(world, first, dim):
    with pytest.raises(UsageError, match=f"more than 8, found {dim}. Ask for a wider version"):
        second("backstay", world, first, dim=dim)


# Trained on


def test_a_model_trained_on_is_the_version_before_at_first(world, first):
    """Nothing is learned at rate 0; what batch norms see is the graph of now."""
    fitted = second("finetune", world, first, fit=replace(FIT, learning_rate=0.0))
    layers = {name: value for name, value in first.model.weights.items() if "layers" in name}
    assert layers
    for name, value in layers.items():
        np.testing.assert_array_equal(fitted.model.weights[name], value)
    assert fitted.model.config.dim == fitted.model.dim == 8
    assert len(fitted.model.weights["table"]) > len(first.model.weights["table"])  # new values


def test_a_model_trained_on_lasts_as_long_as_it_is_asked_to(world, first):
    for epochs, expected in ((None, [2, 4]), (1, [1]), (6, [2, 4, 6])):
        fitted = second("finetune", world, first, tuning_epochs=epochs)
        assert [point["epoch"] for point in fitted.curves["model"]] == expected


def test_a_model_of_another_architecture_is_not_trained_on(world, first):
    with pytest.raises(UsageError, match="architecture pinsage, found lightgcn"):
        second("finetune", world, first, architecture="lightgcn")


# Maps that are solved for


def least_squares(world, first, fitted, *, offset):
    """The best map back, out of numpy's own solver: (D_0, D_1), and maybe an offset's column."""
    timeline, attributes = world
    z, older = (each.model.embed(timeline[1], attributes) for each in (fitted, first))
    if offset:
        z = np.concatenate([z, np.ones((len(z), 1), np.float32)], axis=1)
    return np.linalg.lstsq(z.astype(np.float64), older.astype(np.float64))[0].T


def test_a_map_in_closed_form_is_the_best_one(world, first):
    fitted = second("posthoc-ridge", world, first)
    assert set(fitted.curves) == {"model"}
    found = fitted.backward.user
    expected = least_squares(world, first, fitted, offset=True)
    np.testing.assert_allclose(found.matrix, expected[:, :-1], atol=1e-2)
    np.testing.assert_allclose(found.offset, expected[:, -1], atol=1e-2)


def test_a_map_learned_jointly_may_be_solved_for_in_the_end(world, first):
    learned, solved = (
        second("bc-aligner", world, first, fit=replace(FIT, solve_maps=solves))
        for solves in (False, True)
    )
    for name, value in learned.model.weights.items():
        np.testing.assert_array_equal(solved.model.weights[name], value)
    expected = least_squares(world, first, solved, offset=False)
    np.testing.assert_allclose(solved.matrix, expected, atol=1e-2)
    assert np.abs(learned.matrix - expected).max() > 0.1
    identity = second("joint-identity", world, first, fit=replace(FIT, solve_maps=True))
    np.testing.assert_array_equal(identity.matrix, np.eye(8, 12))


@pytest.mark.parametrize("method", ["joint-linear-single", "bc-aligner"])
def test_a_map_solved_for_the_multi_step_loss_accounts_for_all_older_versions(world, method):
    """B_2 by numpy's own solver, its entries as one long vector: C_j B_2 z = z_j for all rows z."""
    timeline, attributes = world
    fit = replace(FIT, epochs=1, solve_maps=True)
    models, matrices = [], []
    for number, dim in enumerate((3, 4, 5)):
        previous = (
            Predecessor(models[-1], tuple(matrices), tuple(models[-2::-1])) if models else None
        )
        fitted = fit_version(
            timeline[number],
            attributes,
            plan(method, dim, fit=fit),
            previous=previous,
            score=None,
        )
        models.append(fitted.model)
        if number:
            matrices.insert(0, fitted.matrix)
    oldest, below, z = (m.embed(timeline[2], attributes).astype(np.float64) for m in models)
    targets = [(np.eye(4), below)]
    if method == "bc-aligner":
        targets.append((matrices[1].astype(np.float64), oldest))
    system = np.concatenate([np.kron(z, chain) for chain, _ in targets])
    wanted = np.concatenate([target.ravel() for _, target in targets])
    expected = np.linalg.lstsq(system, wanted)[0].reshape(5, 4).T
    np.testing.assert_allclose(matrices[0], expected, atol=1e-3)


@pytest.mark.parametrize("architecture", ["factorisation", "lightgcn"])
def test_other_architectures_are_fitted_the_same_way(world, architecture):
    timeline, attributes = world
    known = attributes.with_ids()
    previous = None
    for step, dim in ((timeline[0], 8), (timeline[1], 12)):
        fitted = fit_version(
            step,
            known,
            plan("bc-aligner", dim, architecture=architecture, fit=replace(FIT, warm_start=True)),
            previous=previous,
            score=None,
        )
        previous = Predecessor(fitted.model, ())
    assert fitted.matrix.shape == (8, 12)
    assert fitted.model.embed(timeline[1], known).shape[1] == 12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["posthoc-linear-single", "bc-aligner", "backstay"])
@pytest.mark.parametrize("sampling", ["full", "neighbours"])
def test_a_gpu_learns_what_a_cpu_does(world, first, method, sampling):
    timeline, attributes = world
    previous = Predecessor(first.model, ())
    config = replace(FIT, sampling=sampling, average=0.5, negatives=20)
    on = {
        device: fit_version(
            timeline[1],
            attributes,
            plan(method, 12, fit=config),
            previous=previous,
            score=None,
            device=device,
        )
        for device in ("cpu", "cuda")
    }
    np.testing.assert_allclose(on["cpu"].matrix, on["cuda"].matrix, atol=1e-2)
