from dataclasses import replace

import pytest

from backstay.evaluation.analysis.decision import TOLERATED, verdict
from backstay.evaluation.analysis.summary import summarise
from backstay.evaluation.comparison.results import Failure
from backstay.evaluation.report import words
from backstay.evaluation.report.words import (
    between,
    duration,
    listed,
    memory,
    number,
    percent,
    share,
)

FEW = ("fix-m0", "no-bc", "posthoc-linear-single", "bc-aligner")


def told(results):
    made = verdict(results)
    return made, " ".join(made.sentences)


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
    made, text = told(results)
    assert made.ship is True
    assert made.methods == ("backstay",)
    assert made.headline == "Ship this update with backstay."
    rows = {row.method: row for row in results.summary}
    gain = 100 * (rows["backstay"].intended_recall50 / rows["fix-m0"].intended_recall50 - 1)
    assert f"never updating (fix-m0): {percent(gain)} (" in text
    assert "Their ROC-AUC: −0.4 % (−1.2 to +0.4); within the 2 % tolerated." in text
    assert not any(part != part.strip() or "  " in part for part in made.sentences)
    assert "(no-bc) changes what old consumers deliver by −35.0 % (" in text


def test_equal_methods_are_not_ranked(results):
    made, text = told(twin(results, of="backstay", name="joint-identity"))
    assert made.ship is True
    assert made.methods == ("joint-identity", "backstay")  # as the table has them
    assert "joint-identity or backstay: this run can't tell them apart" in made.headline
    assert "% (−1.2 to +0.4) with joint-identity, −0.4 % (−1.2 to +0.4) with backstay" in text


def test_where_the_first_model_is_best_nothing_is_shipped(make_results):
    """Never updating has the best Recall@50 of all."""
    made, text = told(make_results(methods=FEW, costs={"fix-m0": (0.1, 0.0, 0.0)}))
    assert made.ship is False
    assert made.methods == ()
    assert made.headline.startswith("Do not ship this update: no method recommends better")
    assert "take a risk for nothing" in text


@pytest.mark.parametrize(("better", "ship"), [(0.0005, False), (0.05, True)])
def test_noise_is_no_gain(make_results, better, ship):
    flat = dict.fromkeys(FEW, (better, 0.0, 0.1)) | {"fix-m0": (0.0, 0.0, 0.0)}
    assert verdict(make_results(methods=FEW, costs=flat)).ship is ship


def test_what_costs_consumers_too_much_is_not_shipped(make_results):
    made, text = told(make_results(methods=FEW[:3]))
    assert made.ship is False
    assert "every method that makes recommendation better costs old consumers" in made.headline
    assert f"{TOLERATED:g} %" in made.headline
    assert "The least that a method which gains anything costs them is −10.0 %" in text
    assert "with posthoc-linear-single" in text


@pytest.mark.parametrize(
    ("loss", "spread", "ship"),
    [(-0.005, 0.004, True), (-0.018, 0.004, None), (-0.022, 0.004, False), (-0.018, 1e-6, True)],
)
def test_the_whole_interval_has_to_be_tolerated(make_results, loss, spread, ship):
    results = make_results(methods=FEW, spread=spread, costs={"bc-aligner": (-0.05, loss, 0.9)})
    made = verdict(results)
    assert made.ship is ship
    if ship is None:
        assert made.headline.startswith("Not yet: this run can't show")
        assert "bc-aligner" in made.headline


def test_a_better_sum_that_is_too_dear_is_explained(make_results):
    results = make_results(methods=FEW, costs={"bc-aligner": (-0.15, -0.005, 0.9)})
    made, text = told(results)
    assert made.methods == ("bc-aligner",)
    assert "posthoc-linear-single may cost old consumers too much (−10.0 %" in text


def test_the_consumer_that_is_hit_hardest_is_named(results):
    hurt = tuple(
        replace(record, value=0.9 * record.value)
        if (record.method, record.task, record.metric) == ("backstay", "edge_rating", "roc_auc")
        else record
        for record in results.records
    )
    _, text = told(replace(results, records=hurt))
    assert "Hardest hit: edge rating, −10.4 %." in text


def test_what_failed_is_left_out_and_said(make_results):
    failure = Failure(cell="fit version 3", message="boom", method="backstay", version=3)
    results = make_results(without=[("backstay", 3), ("backstay", 4)], failures=[failure])
    made, text = told(results)
    assert made.ship is True
    assert "backstay" not in made.methods
    assert text.endswith("1 cell failed; this is judged on what is left. Not judged: backstay.")


def test_a_failed_baseline_leaves_nothing_to_judge_by(make_results):
    failure = Failure(cell="fit version 3", message="boom", method="no-bc", version=3)
    made, text = told(make_results(without=[("no-bc", 3)], failures=[failure]))
    assert made.ship is None
    assert "no-bc failed, and everything is measured against it" in text


def test_without_baselines_there_is_no_verdict(make_results):
    made, text = told(make_results(methods=("bc-aligner",)))
    assert made.ship is None
    assert made.methods == ()
    assert "Run no-bc and fix-m0 as well" in text


def test_without_replicates_there_is_no_verdict(results):
    made, text = told(replace(results, replicates=()))
    assert made.ship is None
    assert "nothing in these results says how sure they are" in text


def test_nothing_but_baselines_can_still_be_judged(make_results):
    """Shipping without compatibility is a way to ship: here it breaks every consumer."""
    made = verdict(make_results(methods=("fix-m0", "no-bc")))
    assert made.ship is False
    assert verdict(make_results(methods=("fix-m0",))).ship is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(None), "–"),
        (percent(-0.04), "0.0 %"),
        (percent(-5.74), "−5.7 %"),
        (percent(1.25), "+1.2 %"),
        (between(None), ""),
        (between((0.0, 0.0)), ""),
        (between((-1.2, 0.34)), "−1.2 to +0.3"),
        (share(None), "–"),
        (share(0.123), "12.3 %"),
        (share(-0.5), "−50.0 %"),
        (listed(["a"]), "a"),
        (listed(["a", "b", "c"], "or"), "a, b or c"),
        (number(None), "–"),
        (number(0.28516, 4), "0.2852"),
        (duration(None), "–"),
        (duration(2.34), "2.3 s"),
        (duration(95.2), "95 s"),
        (duration(150), "2.5 min"),
        (duration(9000), "2.5 h"),
        (memory(None), "–"),
        (memory(812.4), "812 MB"),
        (memory(1512), "1.5 GB"),
    ],
)
def test_figures_in_words(text, expected):
    assert text == expected


def test_every_method_of_the_comparison_has_its_words(results):
    assert {row.method for row in results.summary} <= set(words.METHODS)
