"""Comparison and search over Ray: the same figures as in one process, and the files they write."""

import json
from dataclasses import replace

import pytest

from backstay.datasets.marketplace import generate
from backstay.datasets.marketplace_config import MarketplaceConfig
from backstay.engines.compare import compare
from backstay.engines.search import search
from backstay.errors import InputError, UsageError

SMALL = {"dims": (8, 12), "epochs": 2, "seeds": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("market") / "dataset"
    generate(MarketplaceConfig(interactions=3_000), out)
    return out


@pytest.mark.usefixtures("ray_cluster")
def test_ray_tasks_and_one_process_find_the_same(dataset, tmp_path):
    here = compare(dataset, out=tmp_path / "here", workers=1, **SMALL)
    there = compare(dataset, out=tmp_path / "there", **SMALL)
    assert [replace(row, value=0) for row in there.records] == [
        replace(row, value=0) for row in here.records
    ]
    for ours, theirs in zip(here.records, there.records, strict=True):
        assert theirs.value == pytest.approx(ours.value, abs=0.02), ours
    document = json.loads((tmp_path / "there" / "results.json").read_text())
    assert set(document) == {"dataset", "protocol", "summary", "records"}
    assert document["dataset"]["counts"]["interactions"] == 3_000
    page = (tmp_path / "there" / "report.html").read_text()
    assert all(method in page for method in ("fix-m0", "no-bc", "bc-aligner"))
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_an_earlier_comparison_is_never_overwritten(dataset, tmp_path):
    (tmp_path / "results.json").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        compare(dataset, out=tmp_path, workers=1, **SMALL)
    assert (tmp_path / "results.json").read_text() == "mine"


@pytest.mark.usefixtures("ray_cluster")
def test_a_search_tries_the_weights_and_draws_their_front(dataset, tmp_path):
    out = tmp_path / "search"
    report = search(dataset, out=out, weights=(16.0, 0.5), dims=(8, 12), epochs=2, seeds=1)
    assert [trial.weight for trial in report.trials] == [0.5, 16.0]
    assert report.best_weight in (0.5, 16.0)
    assert any(trial.on_front for trial in report.trials)
    document = json.loads((out / "results.json").read_text())
    assert [row["method"] for row in document["summary"]] == [
        "fix-m0",
        "no-bc",
        "λ = 0.5",
        "λ = 16",
    ]
    assert (out / "report.html").is_file()
    with pytest.raises(InputError, match="finished"):
        search(dataset, out=out, weights=(16.0,), dims=(8, 12), epochs=2, seeds=1)


@pytest.mark.usefixtures("ray_cluster")
def test_the_searcher_chooses_weights_by_itself(dataset, tmp_path):
    report = search(dataset, out=tmp_path, trials=2, dims=(8, 12), epochs=1, seeds=1)
    assert len({trial.weight for trial in report.trials}) == 2
    assert all(0.5 <= trial.weight <= 128 for trial in report.trials)


def test_a_search_that_cannot_be_meant_is_refused(dataset, tmp_path):
    with pytest.raises(UsageError, match="joint"):
        search(dataset, out=tmp_path, method="no-bc")
    with pytest.raises(UsageError, match="not both"):
        search(dataset, out=tmp_path, weights=(1.0,), trials=3)
    assert not list(tmp_path.iterdir())
