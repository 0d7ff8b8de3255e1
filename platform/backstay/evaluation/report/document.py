"""report.json: the report for programs.

    verdict        code (ship, do-not-ship or undecided), ship (the same as true, false or null),
                   cause, methods to ship with, tolerated (percent), headline,
                   reasons: [{code, question, figure, answer}]
    table          the rows of `summary` of results.json, with their 95 % intervals
    groups         [{methods, apart}], the best first: methods of one group are in no order; apart
                   lists the pairs of a group that differ significantly, the better first
    pairs          [{first, second, figure, difference, interval, told_apart}]: every two methods'
                   difference in intended_pct, unintended_pct and total_pct, in points; told_apart
                   where it is significant
    compatibility  by method: update_gain, average_compatibility, consumers (percent against
                   fix-m0 by task), and its maps as in results.json, each with `compatible`
    failures       as in results.json

Shares lie in [0, 1], percentages are percent; a figure that can't be computed is null.
"""

from dataclasses import asdict

from backstay.evaluation.analysis.codes import TOLERATED
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.report.verdict import verdict


def document(analysis: Analysis) -> dict[str, object]:
    """The contents of report.json."""
    results, decision = analysis.results, analysis.decision
    words = verdict(decision)
    return {
        "verdict": {
            "code": decision.code,
            "ship": decision.ship,
            "cause": decision.cause,
            "methods": decision.methods,
            "headline": words.headline,
            "reasons": [asdict(reason) for reason in words.reasons],
            "tolerated": TOLERATED,
        },
        "table": [asdict(row) for row in results.summary],
        "groups": [asdict(group) for group in analysis.groups],
        "pairs": [{**asdict(pair), "told_apart": pair.significant} for pair in analysis.pairs],
        "compatibility": {
            method: {
                "update_gain": part.update_gain,
                "average_compatibility": part.average_compatibility,
                "consumers": analysis.consumer_costs.get(method, {}),
                "maps": [{**asdict(map_), "compatible": map_.compatible} for map_ in part.maps],
            }
            for method, part in analysis.compatibility.items()
        },
        "failures": [asdict(failure) for failure in results.failures],
    }
