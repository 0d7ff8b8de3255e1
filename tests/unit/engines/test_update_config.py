"""The options of an update reach the fit, and the report reaches the user."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from backstay.engines import update as module
from backstay.engines.update import update
from backstay.engines.update_config import UpdateConfig
from backstay.errors import UsageError
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.registry.store import Registry
from backstay.training.config import FAST, PAPER
from tests.support.events import events


@pytest.fixture
def config(dataset, tmp_path):
    return UpdateConfig(
        registry=str(tmp_path / "registry"), space="market", dataset=dataset, until=0.5, dim=8
    )


def test_a_profile_is_taken_as_it_is(config):
    assert config.fit == FAST
    assert replace(config, profile="paper").fit == PAPER


def test_what_is_asked_for_replaces_the_profiles_own(config):
    asked = replace(config, weight=3.0, evaluate_every=2, sampling="neighbours", fan_out=7, seed=0)
    assert asked.fit == replace(
        FAST, weight=3.0, evaluate_every=2, sampling="neighbours", fan_out=7, seed=0
    )


def test_a_weight_of_zero_is_a_choice(config):
    assert replace(config, weight=0.0).fit.weight == 0


@pytest.mark.parametrize("profile", ["fast", "paper"])
def test_an_update_fits_as_a_comparison_does(config, profile):
    """So that a comparison predicts what an update publishes."""
    options = {"epochs": 4, "rate": 0.5, "weight": 2.0}
    fit = replace(config, profile=profile, **options).fit
    assert fit == ComparePlan.of(profile, **options).fit
    assert (fit.epochs, fit.evaluate_every) == (4, 1 if profile == "fast" else 4)


@pytest.mark.parametrize(("batch_size", "group_size"), [(1000, 250), (1001, 251), (3, 1)])
def test_a_batch_size_holds_for_whole_graphs_and_for_sampled_groups(config, batch_size, group_size):
    fit = replace(config, batch_size=batch_size).fit
    assert (fit.batch_size, fit.group_size) == (batch_size, group_size)


@pytest.mark.parametrize("workers", [5, (1, 5)])
def test_more_workers_than_groups_are_refused_before_anything_starts(config, monkeypatch, workers):
    monkeypatch.setattr(module, "fit_on_ray", lambda *_, **__: pytest.fail("it started"))
    with pytest.raises(UsageError, match=r"at most 4 workers, found 5\. Ask for fewer"):
        update(replace(config, sampling="neighbours", workers=workers))


def test_the_report_of_a_fit_is_published_and_lies_beside_its_events(config, tmp_path):
    folder = tmp_path / "log"
    asked = replace(config, epochs=2, workers=0, sampling="neighbours", log_dir=folder)
    update(replace(asked, until=0.4, log_dir=None))
    update(asked)
    report = Registry(config.registry).space("market").fit_report(1)
    assert report == json.loads((folder / "fit_report.json").read_text(encoding="utf-8"))
    assert (report["space"], report["version"], report["method"]) == ("market", 1, "bc-aligner")
    assert report["config"]["fit"]["sampling"] == "neighbours"
    assert report["config"]["log_dir"] == str(folder)
    assert report["peak_rss_mb"] > 50  # torch alone
    model = report["phases"]["model"]
    assert set(model["seconds_by"]) >= {
        *("data", "sampling", "forward", "backward", "update", "evaluation")
    }
    assert 0 < sum(model["seconds_by"].values()) <= report["seconds"]
    assert [point["epoch"] for point in model["curve"]] == [1, 2]
    found = events(folder)
    assert {tag for tag, _ in found} == {
        f"model/{name}" for name in ("loss", "alignment", "score", "triples_per_second")
    }
    for name in ("loss", "alignment", "score"):
        logged = [value for (tag, _), value in sorted(found.items()) if tag == f"model/{name}"]
        assert logged == pytest.approx([point[name] for point in model["curve"]], rel=1e-6)


def test_without_a_folder_the_report_is_in_the_registry_alone(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    update(replace(config, epochs=1, workers=0))
    assert Registry(config.registry).space("market").fit_report(0)["config"]["log_dir"] is None
    assert [path for path in Path().rglob("*") if "report" in path.name] == [
        Path("registry/market/versions/0/fit_report.json")
    ]
