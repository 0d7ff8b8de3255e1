from typing import get_args

import pytest

from backstay.evaluation.analysis.codes import Cause, Decision, MethodFigure, Reason, ReasonCode
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.report.verdict import HEADLINES, SENTENCES, verdict
from tests.support.made_up_results import made_up_results

A, B = (
    MethodFigure(method=name, value=value, interval=(value - 1, value + 1))
    for name, value in (("a", 2.5), ("b", -3.0))
)


def test_every_code_has_its_sentences():
    assert set(HEADLINES) == set(get_args(Cause))
    assert set(SENTENCES) == set(get_args(ReasonCode))


@pytest.mark.parametrize("code", get_args(ReasonCode))
def test_every_reason_is_a_question_and_an_answer(code):
    reason = Reason(code=code, figures=(A,), losses=(A,), methods=("a",), count=1)
    made = verdict(Decision(cause="proven", leading=("a",), reasons=(reason,)))
    (found,) = made.reasons
    assert found.code == code
    assert found.figure == "+2.5 %"
    assert found.question.endswith("?")
    for text in (found.question, found.answer, made.headline):
        assert text == " ".join(text.split())
        assert "{" not in text
    assert found.answer.endswith(".")


def test_a_verdict_in_words(analysis):
    made = verdict(analysis.decision)
    assert made.headline == "Ship this update with backstay."
    answers = {reason.code: reason.answer for reason in made.reasons}
    assert answers["loss-tolerated"] == (
        "Change of their ROC-AUC: −0.4 % (−1.2 to +0.4); within the 2 % tolerated."
    )
    assert "without compatibility (no-bc) changes" in answers["without-compatibility"]


def test_several_methods_are_named_with_their_figures():
    reason = Reason(code="gain", figures=(A, B))
    made = verdict(Decision(cause="proven", leading=("a", "b"), reasons=(reason,)))
    assert made.headline.startswith("Ship this update with a or b: ")
    assert made.reasons[0].figure == "−3.0 to +2.5 %"
    assert "+2.5 % (+1.5 to +3.5) with a, −3.0 % (−4.0 to −2.0) with b" in made.reasons[0].answer


def test_missing_baselines_are_named():
    made = verdict(Analysis.of(made_up_results(methods=("bc-aligner",))).decision)
    assert "Run again with no-bc and fix-m0 among --methods." in made.reasons[0].answer
