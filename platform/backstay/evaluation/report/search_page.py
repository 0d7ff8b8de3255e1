"""The report of a search: a page, and a JSON document for programs.

search.json holds the fields of `SearchFindings`, with the two `Results` reduced to their summaries:

    chosen, within_tolerance, rule, tolerance, verdict
    selected_on, judged_on          versions whose windows the search chose by, and later ones
    trials                          [{name, settings, state, reason, versions, costs, on_front,
                                    reference}], by rising weight; costs on the selection windows
    baselines                       the rows of fix-m0 and no-bc on the selection windows
    judged                          rows of the choice, the usual weights and the baselines on the
                                    judged windows
    against                         the choice's sum minus each usual weight's on those windows
"""

import json
from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup

from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.comparison.results import Summary
from backstay.evaluation.report import words
from backstay.evaluation.report.templates import write_page
from backstay.evaluation.search.findings import SearchFindings, Trial
from backstay.evaluation.search.trial import BASELINES
from backstay.storage.atomic import write_file

REPORT_FILE = "report.html"
DOCUMENT_FILE = "search.json"


def write_search(findings: SearchFindings, out: Path) -> Path:
    """Write `search.json` and `report.html` into the folder `out`; return the page's path.

    The page is self-contained: it loads nothing.
    """
    from backstay.evaluation.report import plots  # noqa: PLC0415 - loads matplotlib

    text = json.dumps(search_document(findings), indent=1, ensure_ascii=False)
    write_file(out / DOCUMENT_FILE, f"{text}\n".encode())
    analysis = Analysis.of(findings.selection)
    panels = plots.cost_panels(analysis, plots.styles(analysis.methods))
    content = {
        "findings": findings,
        "dataset": findings.selection.dataset,
        "words": words,
        "headline": headline(findings),
        "honest": honest_sentence(findings),
        "judged": _judged_rows(findings),
        "baselines": BASELINES,
        "panels": [(panel, Markup(plots.inline_svg(panel))) for panel in panels],  # noqa: S704
    }
    write_page(out / REPORT_FILE, package=__package__, template="search.html", content=content)
    return out / REPORT_FILE


def search_document(findings: SearchFindings) -> dict[str, object]:
    """The contents of search.json, which are also the answer of the command."""
    document = asdict(findings)
    selection = document.pop("selection")["summary"]
    judgement = document.pop("judgement")
    return document | {
        "against": [asdict(pair) for pair in findings.against],
        "verdict": findings.verdict,
        "best": findings.best and findings.best.settings.options(),
        "baselines": [row for row in selection if row["method"] in BASELINES],
        "judged": judgement["summary"] if judgement else [],
    }


def headline(findings: SearchFindings) -> str:
    """The choice in one sentence."""
    best = findings.best
    if best is None:
        return "No trial could be measured on both sides: nothing is chosen."
    if findings.rule == "best-sum":
        return f"{best.name} has the best sum of both costs."
    if findings.within_tolerance:
        return (
            f"{best.name} costs recommendation least, among the trials whose consumers surely lose "
            f"at most {findings.tolerance:g} %."
        )
    return (
        f"No trial's consumers surely lose at most {findings.tolerance:g} %. {best.name} comes "
        "nearest."
    )


def honest_sentence(findings: SearchFindings) -> str:
    """The costs of the choice on the judged windows, and the verdict."""
    row, where = findings.honest, _versions(findings.judged_on)
    if findings.verdict == "unmeasured" or row is None:
        return f"On {where}, which the search did not see, the choice could not be measured."
    figures = (
        f"On {where}, which the search did not see, it costs recommendation "
        f"{words.percent(row.intended_pct)} and old consumers {words.percent(row.unintended_pct)}."
    )
    match findings.verdict:
        case "over-tolerance":
            return (
                f"{figures} That is surely more than the {findings.tolerance:g} % that consumers "
                "may lose. The choice is good on the selection windows only. Don't use it without "
                "another search."
            )
        case "worse":
            better = [
                pair.second for pair in findings.against if pair.significant and pair.difference < 0
            ]
            return (
                f"{figures} Its sum there is significantly worse than that of "
                f"{words.listed(better)}. The choice is good on the selection windows only. "
                f"Use {words.listed(better, 'or')} instead."
            )
    return f"{figures} No usual weight is significantly better there."


def _versions(numbers: tuple[int, ...]) -> str:
    if len(numbers) == 1:
        return f"the window of version {numbers[0]}"
    return f"the windows of versions {numbers[0]} to {numbers[-1]}"


def _judged_rows(findings: SearchFindings) -> list[tuple[Summary, Trial | None]]:
    """The rows of the judged windows, the choice first."""
    rows = findings.judgement.summary if findings.judgement else ()
    trials = {trial.name: trial for trial in findings.trials}
    ordered = sorted(rows, key=lambda row: (row.method != findings.chosen, row.method in BASELINES))
    return [(row, trials.get(row.method)) for row in ordered]
