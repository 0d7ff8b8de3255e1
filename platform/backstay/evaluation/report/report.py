"""The report of a comparison: a page, a text, a document, plots, and the table for a terminal.

`report.json` says what the page says, for programs:

    verdict        ship (true, false, or null: the run can't tell), methods to ship with, tolerated
                   (percent), headline, reasons: [{question, figure, answer}]
    table          the rows of `summary` of results.json, with their 95 % intervals
    groups         [{methods, apart}], the best first: methods of one group are in no order; apart
                   lists the pairs of a group that are told apart all the same, the better first
    pairs          [{first, second, figure, difference, interval, told_apart}]: every two methods'
                   difference in intended_pct, unintended_pct and total_pct, in points
    compatibility  by method: update_gain, average_compatibility, consumers (percent against
                   fix-m0 by task), and its maps as in results.json, each with `compatible`
    failures       as in results.json

Shares lie in [0, 1], percentages are percent; null where a figure can't be made.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table

from backstay.evaluation.analysis import breakdown as costs
from backstay.evaluation.analysis.compatibility import average_compatibility, update_gain
from backstay.evaluation.analysis.decision import TOLERATED, Verdict, verdict
from backstay.evaluation.analysis.groups import groups
from backstay.evaluation.analysis.significance import pairs
from backstay.evaluation.comparison.files import write_whole
from backstay.evaluation.comparison.results import Results
from backstay.evaluation.metrics.bootstrap import Interval
from backstay.evaluation.report import words
from backstay.evaluation.report.tables import comparable, sheets
from backstay.evaluation.report.templates import write_pages

REPORT_FILE = "report.html"
TEXT_FILE = "report.md"
DOCUMENT_FILE = "report.json"
FIGURES_FOLDER = "figures"

_SECTIONS = {
    "comparison": ("Who is ahead of whom", (), ("apart",)),
    "costs": ("Both sides of the bill", ("costs", "methods", "versions"), ()),
    "consumers": ("Consumer by consumer", ("tasks",), ("consumers", "flips")),
    "compatibility": (
        "How compatible the versions are",
        ("chain",),
        ("compatibility", "criterion", "slices", "maps"),
    ),
}
"""Sections after the comparison table: heading, figures, tables."""


def write_report(results: Results, out: Path) -> Path:
    """Write `report.html`, `.md` and `.json`, and `figures/*.{png,svg}` into the folder `out`.

    The page is self-contained: it loads nothing. Returns its path.
    """
    from backstay.evaluation.report import plots  # noqa: PLC0415 - matplotlib, only where a report is made

    decision = verdict(results)
    look = plots.styles([row.method for row in results.summary])
    panels = plots.panels(results)
    files = plots.figure_files(panels, look)
    for name, content in files.items():
        write_whole(out / FIGURES_FOLDER / name, content)
    told = {
        **_content(results, decision),
        "keys": {method: Markup(plots.marker_svg(style)) for method, style in look.items()},  # noqa: S704
        "panels": [(panel, Markup(plots.inline_svg(panel))) for panel in panels],  # noqa: S704
        "images": [name.removesuffix(".png") for name in files if name.endswith(".png")],
        "folder": FIGURES_FOLDER,
    }
    document = json.dumps(_document(results, decision), indent=1, ensure_ascii=False)
    write_whole(out / DOCUMENT_FILE, f"{document}\n".encode())
    names = (TEXT_FILE, REPORT_FILE)
    write_pages(out, package="backstay.evaluation.report", names=names, told=told)
    return out / REPORT_FILE


def terminal_table(results: Results) -> Table:
    """The comparison table for a terminal, with 95 % intervals; the verdict below."""
    decision = verdict(results)
    table = Table(
        title=f"What an update costs: {results.dataset.get('name', 'this data set')}",
        caption=f"{decision.headline}\n"
        "% against no-bc (Recall@50) and fix-m0 (ROC-AUC); ±: half the 95 % interval",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("method", overflow="fold")
    for heading in ("Recall\n%", "ROC-AUC\n%", "sum\n%", "dis-\ntance", "\nfit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparable(results):
        table.add_row(
            row.method,
            _with_interval(row.intended_pct, row.intended_interval),
            _with_interval(row.unintended_pct, row.unintended_interval),
            _with_interval(row.total_pct, row.total_interval),
            words.number(row.alignment_error, 2),
            words.duration(row.fit_seconds),
            style="bold" if row.method in decision.methods else None,
        )
    return table


def _with_interval(value: float | None, interval: Interval | None) -> str:
    """`−0.6 ±0.4`; an interval without any width says nothing."""
    text = words.signed(value)
    if interval is None or interval[0] == interval[1]:
        return text
    return f"{text} ±{(interval[1] - interval[0]) / 2:.1f}"


def _content(results: Results, decision: Verdict) -> dict[str, Any]:
    """What both templates say."""
    protocol = dict(results.protocol)
    left_out = protocol.pop("left_out", [])
    notes = protocol.pop("notes", [])
    return {
        "name": results.dataset.get("name", "this data set"),
        "counts": results.dataset.get("counts", {}),
        "verdict": decision,
        "tolerated": TOLERATED,
        "failures": results.failures,
        "groups": groups(results),
        "sheets": sheets(results, chosen=decision.methods),
        "sections": _SECTIONS,
        "methods": [row.method for row in results.summary],
        "words": words,
        "tasks": dict.fromkeys(r.task for r in results.records if r.metric == "roc_auc"),
        "left_out": left_out,
        "notes": notes,
        "run": [
            (words.plain(key), _plain(value))
            for part in ({"dataset": results.dataset}, {"protocol": protocol})
            for group, values in part.items()
            for key, value in values.items()
            if (group, key) != ("dataset", "name")
        ],
    }


def _document(results: Results, decision: Verdict) -> dict[str, Any]:
    """The contents of report.json."""
    gains, shares = update_gain(results), average_compatibility(results)
    hit = costs.by_consumer(results)
    return {
        "verdict": {**asdict(decision), "tolerated": TOLERATED},
        "table": [asdict(row) for row in results.summary],
        "groups": [asdict(group) for group in groups(results)],
        "pairs": [{**asdict(pair), "told_apart": pair.told_apart} for pair in pairs(results)],
        "compatibility": {
            row.method: {
                "update_gain": gains.get(row.method),
                "average_compatibility": shares.get(row.method),
                "consumers": hit.get(row.method, {}),
                "maps": [
                    {**asdict(part), "compatible": part.compatible}
                    for part in results.maps
                    if part.method == row.method
                ],
            }
            for row in results.summary
        },
        "failures": [asdict(failure) for failure in results.failures],
    }


def _plain(value: Any) -> str:
    """A JSON value on one line, for people."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return ", ".join(f"{words.plain(key)} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(inner) for inner in value)
    return f"{value:,}" if type(value) is int else json.dumps(value)
