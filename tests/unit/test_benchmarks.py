"""The benchmarks: they start, and what they make of their measurements is right."""

import importlib
import itertools
import json
import sys
from dataclasses import replace

import pytest

from backstay.training.config import FAST, PAPER
from tests.support.builders import marketplace
from tests.support.processes import ROOT

FOLDER = ROOT / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))
KEYS = {
    "dataset",
    "version",
    "method",
    "target_recall50",
    "paper_seconds",
    "fast_seconds",
    "fast_final_recall50",
    "paper_final_recall50",
    "paper_alignment_error",
    "fast_alignment_error",
}


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    return marketplace(folder, interactions=2_000, users=200, items=100)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_has_help(name, load, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        load(name).main()
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def made_up(quality, recalls, *, pace, kept=0.5, error=1.0):
    """An outcome that is evaluated every `pace` seconds."""
    points = [quality.Point(n, n * pace, recall) for n, recall in enumerate(recalls, 1)]
    return quality.Outcome(
        model=None,
        matrix=None,
        curve=tuple(points),
        seconds=points[-1].seconds,
        cpu_seconds=0.0,
        recall50=kept,
        alignment_error=error,
        reference_norm=10.0,
    )


def test_the_target_is_no_lucky_peak_and_the_slower_fast_fit_counts(load):
    quality = load("_training_quality")
    paper = made_up(quality, [0.1, 0.9, 0.3, 0.5, 0.4, 0.2, 0.6], pace=100, kept=0.9)
    before, after = (made_up(quality, [0.2, 0.4, 0.7], pace=pace, error=0.5) for pace in (1, 2))
    found = quality.Case("data", 1, paper, (before, after)).record()
    assert found.keys() >= KEYS
    assert found["target_recall50"] == found["paper_final_recall50"] == 0.4
    assert found["paper_kept_recall50"] == 0.9
    assert (found["paper_seconds"], found["paper_first_at_target_seconds"]) == (700, 200)
    assert (found["fast_seconds"], found["fast_whole_seconds"]) == (4, 6)
    assert found["fast_relative_alignment_error"] == 0.05
    assert json.loads(json.dumps(found)) == found


def test_a_target_that_is_never_reached_is_null(load):
    quality = load("_training_quality")
    paper, fast = (made_up(quality, [recall] * 5, pace=1) for recall in (0.5, 0.4))
    case = quality.Case("data", 0, paper, (fast, fast))
    assert case.record()["fast_seconds"] is None
    assert "never there" in quality.row(case)


def test_both_recipes_are_fitted_upon_their_own_chains(load, market, tmp_path):
    quality, picture = load("_training_quality"), load("_training_picture")
    chains = {}
    for recipe, config in {"paper": PAPER, "fast": FAST}.items():
        older = chains[recipe] = []
        for version in (0, 1):
            outcome = quality.fit_once(
                market,
                version,
                replace(config.lasting(2), evaluate_every=1),
                dims=(4, 6),
                older=older,
                device="cpu",
            )
            older.append(outcome)
        assert [len(outcome.curve) for outcome in older] == [2, 2]
        assert older[0].alignment_error == 0 < older[1].alignment_error
        assert older[1].matrix.shape == (4, 6)
        assert older[1].curve[0].seconds < older[1].curve[1].seconds <= older[1].seconds
    # `fast` publishes its last state, `paper` its best
    assert chains["fast"][1].recall50 == chains["fast"][1].curve[-1].recall50
    assert chains["paper"][1].recall50 == max(p.recall50 for p in chains["paper"][1].curve)
    case = quality.Case("market", 1, chains["paper"][1], (chains["fast"][1],))
    picture.draw([case], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("mode", ["full", "neighbours"])
def test_an_update_costs_what_its_parts_cost(mode, load, market):
    scaling = load("_training_scaling")
    cost = scaling.measure(market, mode, steps=1, device="cpu")
    triples = FAST.groups * FAST.group_size if mode == "neighbours" else FAST.batch_size
    assert cost.steps == FAST.warm().epochs * -(-cost.edges // triples)
    assert cost.evaluations == FAST.warm().epochs
    least = cost.read + cost.prepare + cost.finish + cost.steps * cost.step
    assert cost.extrapolated == pytest.approx(
        least + cost.evaluations * (cost.refresh + cost.evaluation)
    )
    record = scaling.cost_record(2_000, mode, cost)
    assert record["seconds_per_million_edges"] == pytest.approx(cost.step * 1e6 / triples)
    assert record["peak_mb"] == cost.peak_mb >= cost.base_mb > 0
    assert json.loads(json.dumps(record)) == record


def test_growth_is_given_per_interaction(load):
    small, large = (
        {"interactions": n, "extrapolated_update_seconds": s, "peak_mb": peak, "base_mb": 100}
        for n, s, peak in ((10, 1.0, 200), (100, 12.0, 1_100))
    )
    line = load("training").growth(small, large)
    assert "time 1.20×" in line
    assert "memory 0.55×" in line
    assert line.endswith("idle process 1.00×")


def test_what_was_measured_is_kept(load, tmp_path):
    process, numbers = load("_process"), itertools.count()
    path = tmp_path / "made" / "number.pickle"
    assert [process.cached(path, lambda: next(numbers)) for _ in range(2)] == [0, 0]
    assert next(numbers) == 1
    assert [file.name for file in path.parent.iterdir()] == ["number.pickle"]
