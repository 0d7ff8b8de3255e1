from dataclasses import replace

import pytest

from backstay.evaluation.analysis import findings, significance
from backstay.evaluation.analysis.codes import TOLERATED
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.analysis.summary import summarise
from backstay.evaluation.comparison.results import Failure
from tests.support.made_up_results import made_up_results

FEW = ("fix-m0", "no-bc", "posthoc-linear-single", "bc-aligner")


def decision(results):
    return Analysis.of(results).decision


def codes(made):
    return [reason.code for reason in made.reasons]


def reason(made, code):
    return next(reason for reason in made.reasons if reason.code == code)


def twin(results, of, name):
    """The results where `name` has the very vectors of `of`: all its records and replicates."""
    kept = [record for record in results.records if record.method != name]
    records = [*kept, *(replace(r, method=name) for r in results.records if r.method == of)]
    replicates = [part for part in results.replicates if part.method != name]
    replicates += [replace(part, method=name) for part in replicates if part.method == of]
    methods = [row.method for row in results.summary]
    return replace(
        results,
        records=tuple(records),
        replicates=tuple(replicates),
        summary=summarise(records, methods, replicates=replicates),
    )


def test_a_method_that_gains_and_costs_little_is_shipped(results):
    made = decision(results)
    assert (made.code, made.cause, made.ship) == ("ship", "proven", True)
    assert made.methods == made.leading == ("backstay",)
    assert codes(made) == ["gain", "loss-tolerated", "compatibility-price", "without-compatibility"]
    rows = {row.method: row for row in results.summary}
    (gain,) = reason(made, "gain").figures
    assert gain.method == "backstay"
    assert gain.value == pytest.approx(
        100 * (rows["backstay"].intended_recall50 / rows["fix-m0"].intended_recall50 - 1)
    )
    assert gain.interval[0] < gain.value < gain.interval[1]
    (loss,) = reason(made, "loss-tolerated").figures
    assert (loss.value, *loss.interval) == pytest.approx((-0.4, -1.2, 0.4), abs=0.05)
    assert loss.interval == rows["backstay"].unintended_interval
    (price,) = reason(made, "compatibility-price").figures
    assert price.value == rows["backstay"].intended_pct
    (free,) = reason(made, "without-compatibility").figures
    assert (free.method, free.value) == ("no-bc", rows["no-bc"].unintended_pct)


def test_equal_methods_are_not_ranked(results):
    made = decision(twin(results, of="backstay", name="joint-identity"))
    assert made.code == "ship"
    assert made.methods == ("joint-identity", "backstay")  # as the table has them
    first, second = reason(made, "loss-tolerated").figures
    assert (first.method, second.method) == made.methods
    assert (first.value, first.interval) == (second.value, second.interval)


def test_where_the_first_model_is_best_nothing_is_shipped():
    """Never updating has the best Recall@50 of all."""
    made = decision(made_up_results(methods=FEW, costs={"fix-m0": (0.1, 0.0, 0.0)}))
    assert (made.code, made.cause, made.ship) == ("do-not-ship", "no-gain", False)
    assert made.methods == ()
    assert codes(made) == ["recommends-worse", "without-compatibility", "keep-version"]
    (best,) = reason(made, "recommends-worse").figures
    assert best.interval[1] < 0


@pytest.mark.parametrize(("better", "code"), [(0.0005, "do-not-ship"), (0.05, "ship")])
def test_noise_is_no_gain(better, code):
    flat = dict.fromkeys(FEW, (better, 0.0, 0.1)) | {"fix-m0": (0.0, 0.0, 0.0)}
    made = decision(made_up_results(methods=FEW, costs=flat))
    assert made.code == code
    assert codes(made)[0] == ("gain" if code == "ship" else "gain-not-significant")


def test_what_costs_consumers_too_much_is_not_shipped():
    made = decision(made_up_results(methods=FEW[:3]))
    assert (made.code, made.cause) == ("do-not-ship", "too-costly")
    (least,) = reason(made, "loss-too-great").figures
    assert least.method == "posthoc-linear-single"
    assert least.value == pytest.approx(-10)
    assert least.value < -TOLERATED
    assert codes(made)[-1] == "weigh-compatibility"


@pytest.mark.parametrize(
    ("loss", "spread", "code", "cause"),
    [
        (-0.005, 0.004, "ship", "proven"),
        (-0.018, 0.004, "undecided", "loss-uncertain"),
        (-0.022, 0.004, "do-not-ship", "too-costly"),
        (-0.018, 1e-6, "ship", "proven"),
    ],
)
def test_the_whole_interval_has_to_be_tolerated(loss, spread, code, cause):
    results = made_up_results(methods=FEW, spread=spread, costs={"bc-aligner": (-0.05, loss, 0.9)})
    made = decision(results)
    assert (made.code, made.cause) == (code, cause)
    if code == "undecided":
        assert made.ship is None
        assert made.methods == ()
        assert made.leading == ("bc-aligner",)
        assert codes(made) == ["gain", "loss-uncertain", "without-compatibility", "measure-more"]


def test_a_better_sum_that_costs_too_much_is_explained():
    made = decision(made_up_results(methods=FEW, costs={"bc-aligner": (-0.15, -0.005, 0.9)}))
    assert made.methods == ("bc-aligner",)
    rejected = reason(made, "better-sum-rejected")
    (better,) = rejected.figures
    (loss,) = rejected.losses
    assert better.method == loss.method == "posthoc-linear-single"
    assert better.value == pytest.approx(-10)
    assert loss.value == pytest.approx(-10)


def test_the_consumer_that_loses_most_is_named(results):
    hurt = tuple(
        replace(record, value=0.9 * record.value)
        if (record.method, record.task, record.metric) == ("backstay", "edge_rating", "roc_auc")
        else record
        for record in results.records
    )
    made = decision(replace(results, records=hurt))
    (hit,) = reason(made, "loss-tolerated").hardest_hit
    assert (hit.method, hit.task) == ("backstay", "edge_rating")
    assert hit.value == pytest.approx(-10.4, abs=0.05)
    assert reason(decision(results), "loss-tolerated").hardest_hit == ()  # all lose the same


def test_failed_methods_are_left_out_and_named():
    failure = Failure(cell="fit version 3", message="boom", method="backstay", version=3)
    results = made_up_results(without=[("backstay", 3), ("backstay", 4)], failures=[failure])
    made = decision(results)
    assert made.code == "ship"
    assert "backstay" not in made.methods
    assert made.reasons[-1].code == "cells-failed"
    assert (made.reasons[-1].count, made.reasons[-1].methods) == (1, ("backstay",))


def test_a_failed_baseline_leaves_nothing_to_compare():
    failure = Failure(cell="fit version 3", message="boom", method="no-bc", version=3)
    made = decision(made_up_results(without=[("no-bc", 3)], failures=[failure]))
    assert (made.code, made.cause) == ("undecided", "nothing-to-compare")
    assert reason(made, "baseline-failed").methods == ("no-bc",)


def test_without_baselines_there_is_no_verdict():
    made = decision(made_up_results(methods=("bc-aligner",)))
    assert (made.code, made.methods) == ("undecided", ())
    assert codes(made) == ["baseline-missing"]
    assert made.reasons[0].methods == ("no-bc", "fix-m0")


def test_without_replicates_there_is_no_verdict(results):
    made = decision(replace(results, replicates=()))
    assert (made.code, made.cause) == ("undecided", "no-intervals")
    assert codes(made) == ["no-replicates"]


def test_nothing_but_baselines_can_still_be_judged():
    """Shipping without compatibility is a way to ship: here it breaks every consumer."""
    assert decision(made_up_results(methods=("fix-m0", "no-bc"))).code == "do-not-ship"
    assert decision(made_up_results(methods=("fix-m0",))).code == "undecided"


def test_an_analysis_runs_the_pairwise_tests_once(results, monkeypatch):
    calls = []
    monkeypatch.setattr(
        findings, "pairs", lambda found: calls.append(found) or significance.pairs(found)
    )
    made = Analysis.of(results)
    assert calls == [results]
    assert made.pairs == significance.pairs(results)
