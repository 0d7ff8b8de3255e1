from dataclasses import replace

import pytest

from backstay.evaluation.uncertainty import Uncertainty, uncertainties
from backstay.evaluation.verdict import leaders, standings, verdict
from backstay.evaluation.words import duration, memory, number, percent


def told(results, errors=None):
    places = standings(results, uncertainties(results.records) if errors is None else errors)
    return places, " ".join(verdict(places))


def test_two_that_cannot_be_told_apart_lead_together(results):
    places, text = told(results)
    assert leaders(places) == ["posthoc-linear-single", "bc-aligner"]
    assert "posthoc-linear-single and bc-aligner cost everybody the least" in text
    assert "can't tell them apart" in text
    assert "no-bc): what old consumers deliver loses 35.0 % against fix-m0" in text
    assert "Never updating (fix-m0): recommendation loses 18.2 %" in text


def test_a_clear_lead_is_called_and_its_limit_named(make_results):
    results = make_results(methods=("fix-m0", "no-bc", "bc-aligner"))
    places, text = told(results)
    assert leaders(places) == ["bc-aligner"]
    assert text.startswith("Of 3 update methods, bc-aligner costs everybody the least")
    assert "10.1 points ahead of fix-m0" in text
    assert "Another seed of the embedding models" in text


@pytest.mark.parametrize(("behind", "close"), [(1.9, True), (2.1, False)])
def test_two_standard_errors_decide(results, behind, close):
    rows = {row.method: row for row in results.summary}
    pair = (
        replace(rows["bc-aligner"], total_pct=-5.0),
        replace(rows["no-bc"], total_pct=-5.0 - behind * 5),
    )
    errors = {
        "bc-aligner": Uncertainty(intended_pct=3.0, unintended_pct=0.0),
        "no-bc": Uncertainty(intended_pct=0.0, unintended_pct=4.0),
    }
    best, second = standings(replace(results, summary=pair), errors)
    assert best.row.method == "bc-aligner"
    assert second.error == pytest.approx(5.0)
    assert second.close is close


def test_unknown_uncertainty_is_said(make_results):
    places, text = told(make_results(seeds=1))
    assert leaders(places) == ["posthoc-linear-single"]
    assert "this run can't tell how sure that is" in text


def test_without_baselines_nobody_is_ranked(make_results):
    places, text = told(make_results(methods=("bc-aligner",)))
    assert places == []
    assert leaders(places) == []
    assert text == "Run the baselines no-bc and fix-m0 as well to learn what an update costs whom."


def test_one_method_with_a_sum_is_described(results):
    row = next(row for row in results.summary if row.method == "bc-aligner")
    places, text = told(replace(results, summary=(row,)))
    assert leaders(places) == []
    assert text == (
        "bc-aligner: recommendation loses 4.1 % against no-bc, and what old consumers deliver "
        "loses 4.0 % against fix-m0."
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(None), "–"),
        (percent(-0.04), "0.0 %"),
        (percent(-5.74), "−5.7 %"),
        (percent(1.25), "+1.2 %"),
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
