"""A choice that was good only where it was made is found out, and said, on the judged windows."""

import json

import pytest

from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.report.search_page import search_document, write_search
from backstay.evaluation.search.findings import (
    Attempt,
    SearchFindings,
    recipe,
    select,
)
from backstay.evaluation.search.settings import TrialSettings
from backstay.evaluation.search.trial import BASELINES, hopeless
from tests.support.made_up_results import made_up_results

PLAN = ComparePlan.of("fast", dims=(16, 20, 24))
PLANTED = "λ = 4"
WEIGHTS = {"λ = 1": 1.0, PLANTED: 4.0, "λ = 16": 16.0}


def results(**costs):
    """Results in which λ = 1 and λ = 16 lose 3 % and 5 % of recommendation, and `costs` λ = 4."""
    usual = {"λ = 1": (-0.03, -0.005, 0.3), "λ = 16": (-0.05, -0.004, 0.2)}
    return made_up_results(
        methods=(*BASELINES, *WEIGHTS), costs={**usual, PLANTED: (*costs["planted"], 0.3)}
    )


def search(later, *, tolerance=2.0):
    """A search in which λ = 4 costs next to nothing on the selection windows, and `later` then."""
    selection, judgement = results(planted=(-0.001, -0.001)), results(planted=later)
    attempts = {
        name: Attempt(settings=TrialSettings(weight=weight), state="finished", versions=1)
        for name, weight in WEIGHTS.items()
    } | {
        "λ = 0.1": Attempt(
            settings=TrialSettings(weight=0.1), state="failed", reason="ValueError: no <luck>"
        ),
        "λ = 50": Attempt(
            settings=TrialSettings(weight=50.0), state="stopped", reason="far behind", versions=1
        ),
    }
    attempts = dict(sorted(attempts.items(), key=lambda each: each[1].settings.weight))
    trials, chosen, within = select(
        attempts, selection, rule="least-intended-cost", tolerance=tolerance
    )
    return SearchFindings(
        method="bc-aligner",
        rule="least-intended-cost",
        tolerance=tolerance,
        chosen=chosen.method,
        within_tolerance=within,
        selected_on=(1,),
        judged_on=(2,),
        trials=trials,
        selection=selection,
        judgement=judgement,
    )


@pytest.fixture
def page(tmp_path):
    """Write the page of a search and read it."""

    def written(findings):
        return write_search(findings, tmp_path).read_text()

    return written


def test_a_choice_that_stays_good_holds(page):
    found = search((-0.002, -0.001))
    assert (found.chosen, found.within_tolerance, found.verdict) == (PLANTED, True, "holds")
    assert "No usual weight is significantly better there" in page(found)


def test_a_weight_good_only_on_the_selection_windows_is_found_out(page):
    found = search((-0.20, -0.001))
    assert (found.chosen, found.verdict) == (PLANTED, "worse")
    assert {pair.second for pair in found.against} == {"λ = 1", "λ = 16"}
    assert all(pair.difference < -10 and pair.significant for pair in found.against)
    text = page(found)
    assert "The choice is good on the selection windows only" in text
    assert "Use λ = 1 or λ = 16 instead" in text


def test_consumers_who_lose_too_much_later_are_found_out(page):
    found = search((-0.001, -0.09))
    assert found.verdict == "over-tolerance"
    assert "surely more than the 2 % that consumers may lose" in page(found)


def test_both_figures_stand_in_the_report(page):
    found = search((-0.20, -0.001))
    chosen = next(trial for trial in found.trials if trial.name == PLANTED)
    shown = f"{abs(chosen.costs.intended_pct):.1f}", f"{abs(found.honest.intended_pct):.1f}"
    assert shown[0] != shown[1]
    assert all(figure in page(found) for figure in shown)


def test_every_trial_is_a_row_with_its_end(page):
    text = page(search((-0.002, -0.001)))
    assert "failed: ValueError: no &lt;luck&gt;" in text
    assert "stopped after version 1: far behind" in text
    assert text.count("a usual weight") == 2


def test_the_picture_has_the_figures_under_the_pointer(page):
    text = page(search((-0.002, -0.001)))
    assert "<title>λ = 4: recommendation" in text
    assert "src=" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_the_document_is_json_with_the_contract_of_programs():
    document = json.loads(json.dumps(search_document(search((-0.002, -0.001)))))
    assert document["best"] == {"weight": 4.0}
    assert [row["method"] for row in document["baselines"]] == [*BASELINES]
    assert {row["method"] for row in document["judged"]} == {*BASELINES, *WEIGHTS}
    assert [trial["settings"]["weight"] for trial in document["trials"]] == [0.1, 1, 4, 16, 50]


def test_the_recipe_fits_both_commands():
    assert recipe(search((-0.002, -0.001)), PLAN) == {
        "compare": {
            "methods": ["fix-m0", "no-bc", "bc-aligner"],
            "profile": "fast",
            "weight": 4.0,
        },
        "update": {"method": "bc-aligner", "profile": "fast", "weight": 4.0},
    }


def test_a_trial_surely_far_behind_a_usual_weight_is_hopeless():
    far, near = results(planted=(-0.30, -0.01)), results(planted=(-0.06, -0.01))
    reason = hopeless(far, name=PLANTED, references=("λ = 1", "λ = 16"))
    assert "surely" in reason
    assert "λ = 1" in reason
    assert hopeless(near, name=PLANTED, references=("λ = 1", "λ = 16")) is None
    assert hopeless(far, name=PLANTED, references=()) is None
    assert hopeless(results(planted=(0.2, 0.0)), name=PLANTED, references=("λ = 1",)) is None
