"""Updates fitted in this process: what is published, and what a crash leaves."""

import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backstay.compat.maps import Vectors
from backstay.datasets.dataset import Dataset
from backstay.datasets.timeline import step
from backstay.engines.update import update
from backstay.engines.update_config import UpdateConfig
from backstay.errors import NotFoundError, RegistryError, UsageError
from backstay.registry.store import Registry
from backstay.registry.verify import verify
from tests.support.builders import model_of
from tests.support.processes import run_python, start_python


@pytest.fixture
def config(dataset, tmp_path):
    return UpdateConfig(
        registry=str(tmp_path / "registry"),
        space="market",
        dataset=dataset,
        until=0.5,
        dim=8,
        epochs=4,
        evaluate_every=2,
        workers=0,
    )


def publish(config, *untils, **changes):
    return [update(replace(config, until=until, **changes)) for until in untils]


def test_each_update_publishes_the_next_version_with_everything_a_reader_needs(config, dataset):
    reports = publish(config, 0.5, 0.6, 0.7, dim=None)
    space = Registry(config.registry).space("market")
    assert [report.version for report in reports] == space.versions() == [0, 1, 2]
    assert [report.dim for report in reports] == [256, 320, 384]
    assert all(verify(space, version) == [] for version in space.versions())
    assert space.chain(2, 0).matrix.shape == (256, 384)
    manifest = space.manifest(2)
    assert manifest.method == "bc-aligner"
    assert manifest.dataset.fingerprint == Dataset.open(dataset).info.fingerprint
    assert manifest.dataset.until == 0.7
    metrics = space.metrics(2)
    assert 0 < metrics["recall@50"] <= 1
    assert set(metrics["alignment_error"]) == {"to_version_0", "to_version_1"}


def test_a_table_holds_the_models_vectors_under_the_datasets_own_ids(config, dataset):
    publish(config, 0.5)
    space = Registry(config.registry).space("market")
    interactions = Dataset.open(dataset).interactions()
    snapshot = step(interactions, 0, 0.5, 0.6)
    z = model_of(space, 0).embed(snapshot, Dataset.open(dataset).attributes(interactions.item_ids))
    for entity, ids, values in (
        ("user", interactions.user_ids[: snapshot.n_users], z[: snapshot.n_users]),
        ("item", interactions.item_ids[: snapshot.n_items], z[snapshot.n_users :]),
    ):
        found_ids, found = space.table(0, entity).read()
        assert found_ids.to_pylist() == ids.to_pylist()
        np.testing.assert_allclose(found, values, atol=1e-5)


def test_the_same_update_twice_gives_the_same_numbers(config, tmp_path):
    publish(config, 0.5, 0.6)
    again = replace(config, registry=str(tmp_path / "again"))
    publish(again, 0.5, 0.6)
    first, second = (Registry(c.registry).space("market") for c in (config, again))
    for version in (0, 1):  # maps and tables also carry the fingerprint of their build
        model = "model.safetensors"
        assert first.manifest(version).files[model] == second.manifest(version).files[model]
        for entity in ("user", "item"):
            tables = (space.table(version, entity).read()[1] for space in (first, second))
            np.testing.assert_array_equal(*tables, strict=True)
    maps = (space.backward_map(1).matrix for space in (first, second))
    np.testing.assert_array_equal(*maps, strict=True)


def test_the_registry_records_frozen_and_mapless_methods(config):
    publish(config, 0.5)
    publish(config, 0.6, method="fix-m0")
    space = Registry(config.registry).space("market")
    np.testing.assert_array_equal(space.chain(1, 0).matrix, np.eye(8, dtype=np.float32))
    publish(config, 0.7, method="no-bc", force=True)
    with pytest.raises(NotFoundError, match="chain"):
        space.chain(2, 0)


@pytest.mark.parametrize(
    ("method", "dim"),
    [
        ("finetune", 8),
        ("posthoc-linear-multi", 10),
        ("posthoc-procrustes", 10),
        ("joint-identity", 10),
        ("joint-linear-single", 10),
        ("backstay", 10),
    ],
)
def test_versions_of_other_methods_lead_back_too(config, method, dim):
    publish(config, 0.5, epochs=1)
    (report,) = publish(config, 0.6, method=method, dim=10, epochs=1, force=True)
    assert (report.method, report.dim) == (method, dim)
    space = Registry(config.registry).space("market")
    assert verify(space, 1) == []
    assert space.chain(1, 0).matrix.shape == (8, dim)


@pytest.mark.parametrize("method", ["posthoc-ridge", "posthoc-low-rank"])
def test_a_map_that_no_version_can_have_is_refused_before_anything_is_fitted(config, method):
    with pytest.raises(UsageError, match=f"{method}.*can be compared, not published"):
        replace(config, method=method)


def test_a_table_built_onto_older_ones_converts_into_the_very_vectors_of_version_0(config, dataset):
    for until, dim in ((0.5, 8), (0.6, 12), (0.7, 16)):
        (report,) = publish(config, until, method="backstay", dim=dim)
    assert max(report.metrics["alignment_error"].values()) < 1e-4
    space = Registry(config.registry).space("market")
    assert all(verify(space, version) == [] for version in (0, 1, 2))
    opened = Dataset.open(dataset)
    interactions = opened.interactions()
    snapshot = step(interactions, 2, 0.7, 0.8)
    first = model_of(space, 0).embed(snapshot, opened.attributes(interactions.item_ids))
    users, items = np.split(first, [snapshot.n_users])
    for entity, expected in (("user", users), ("item", items)):
        _, newest = space.table(2, entity).read()
        found = space.chain(2, 0).convert(Vectors("market", 2, newest))
        np.testing.assert_allclose(found.values, expected, atol=1e-4)
        assert np.abs(newest[:, :8] - expected).max() > 0.01  # another basis, and new dimensions


def test_a_version_built_onto_another_must_be_wider(config):
    publish(config, 0.5, epochs=1)
    with pytest.raises(UsageError, match=r"more than 8, found 8\. Ask for a wider version"):
        publish(config, 0.6, method="backstay")


def test_the_whole_timeline_can_be_trained_on_with_nothing_left_to_judge(config):
    (report,) = publish(config, 1.0, force=True)
    assert report.metrics["recall@50"] is None
    assert report.metrics["validation_interactions"] == 0


def test_a_named_run_that_has_published_does_not_publish_again(config):
    named = replace(config, run_name="monday")
    assert update(named) == update(named)
    assert Registry(config.registry).space("market").versions() == [0]


def test_a_retried_request_publishes_nothing_more(config):
    first, second = publish(config, 0.5, 0.6)
    again, older = publish(config, 0.6, 0.5)
    assert (again, older) == (second, first)
    assert [report.published for report in (second, again)] == ["now", "by an earlier run"]
    assert Registry(config.registry).space("market").versions() == [0, 1]


def test_a_request_whose_publisher_died_before_it_cleaned_up_is_cleaned_up(config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backstay.registry.staging.StagedFiles.clear", lambda _: sys.exit(9))
        with pytest.raises(SystemExit):
            publish(config, 0.5)
    space = Registry(config.registry).space("market")
    assert space.versions() == [0]
    assert len(space.drafts()) == 1
    (again,) = publish(config, 0.5)
    assert (again.version, again.published) == (0, "by an earlier run")
    assert space.drafts() == []
    assert not list(Path(config.registry).glob("market/runs/*/state.pt"))


def test_another_run_name_publishes_the_same_request_again(config):
    publish(config, 0.5)
    (again,) = publish(config, 0.5, run_name="again", force=True)
    assert again.version == 1


def test_a_run_name_that_published_another_request_is_refused(config):
    publish(config, 0.5, run_name="monday")
    with pytest.raises(RegistryError, match=r"run monday published version 0.*--run-name"):
        publish(config, 0.6, run_name="monday")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"until": 0.0}, "until"),
        ({"until": 1.5}, "until"),
        ({"method": "magic"}, "magic"),
        ({"dim": -1}, "dim"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_invalid_options_are_refused_by_name(config, change, words):
    with pytest.raises(UsageError, match=words):
        update(replace(config, **change))
    assert not Path(config.registry, "market", "versions").exists()


def test_a_job_killed_in_training_leaves_nothing_visible_and_resumes(config, tmp_path):
    command = ["-m", "backstay", "update", "--registry", config.registry]
    command += ["--space", "market", "--dataset", str(config.dataset), "--until", "0.5"]
    command += ["--dim", "8", "--epochs", "200", "--workers", "0"]
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        job = start_python(*command, stdout=stderr, stderr=stderr)
        while not list(Path(config.registry).glob("market/runs/*/state.pt")):
            assert job.poll() is None, log.read_text()
            time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
    space = Registry(config.registry).space("market")
    assert space.versions() == []
    done = run_python(*command, check=True, timeout=300)
    assert "resuming from the checkpoint" in done.stderr
    assert "epoch 1 of" not in done.stderr  # the first checkpoint's work is not done again
    assert space.versions() == [0]
    assert verify(space, 0) == []
    assert not list(Path(config.registry).glob("market/runs/*/state.pt"))
    undisturbed = replace(config, registry=str(tmp_path / "undisturbed"), epochs=200)
    update(undisturbed)
    for name, value in space.model(0).weights.items():
        expected = Registry(undisturbed.registry).space("market").model(0).weights[name]
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5, err_msg=name)
