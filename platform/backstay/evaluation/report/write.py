"""Writing a report: a page, a Markdown text, a JSON document, and figures as files."""

import json
from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from backstay.evaluation.analysis.codes import TOLERATED
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.report import words
from backstay.evaluation.report.document import document
from backstay.evaluation.report.tables import tables
from backstay.evaluation.report.templates import write_pages
from backstay.evaluation.report.verdict import verdict
from backstay.storage.atomic import write_file

REPORT_FILE = "report.html"
TEXT_FILE = "report.md"
DOCUMENT_FILE = "report.json"
FIGURES_FOLDER = "figures"

Section = tuple[str, tuple[str, ...], tuple[str, ...]]
"""Heading, figures, tables."""

_SECTIONS: Mapping[str, Section] = {
    "comparison": ("Order of the methods", (), ("apart",)),
    "costs": ("Costs for recommendation and consumers", ("costs", "methods", "versions"), ()),
    "consumers": ("Consumer by consumer", ("tasks",), ("consumers", "flips")),
    "compatibility": (
        "Compatibility of the versions",
        ("chain",),
        ("compatibility", "criterion", "slices", "maps"),
    ),
}
"""Sections after the comparison table."""


def write_report(analysis: Analysis, out: Path) -> Path:
    """Write `report.html`, `.md` and `.json`, and `figures/*.{png,svg}` into the folder `out`.

    The page is self-contained: it loads nothing. Returns its path.
    """
    from backstay.evaluation.report import plots  # noqa: PLC0415 - loads matplotlib

    style_of = plots.styles(analysis.methods)
    panels = plots.panels(analysis)
    files = plots.figure_files(panels, style_of)
    for name, file in files.items():
        write_file(out / FIGURES_FOLDER / name, file)
    text = json.dumps(document(analysis), indent=1, ensure_ascii=False)
    write_file(out / DOCUMENT_FILE, f"{text}\n".encode())
    run = (
        (words.plain(key), words.value(value))
        for part, shown_elsewhere in (
            (analysis.results.dataset, {"name"}),
            (analysis.results.protocol, {"left_out", "notes"}),
        )
        for key, value in part.items()
        if key not in shown_elsewhere
    )
    content = {
        "analysis": analysis,
        "results": analysis.results,
        "words": words,
        "verdict": verdict(analysis.decision),
        "tolerated": TOLERATED,
        "tables": tables(analysis),
        "sections": _SECTIONS,
        "run": list(run),
        "keys": {method: Markup(plots.marker_svg(style)) for method, style in style_of.items()},  # noqa: S704
        "panels": [(panel, Markup(plots.inline_svg(panel))) for panel in panels],  # noqa: S704
        "images": [name.removesuffix(".png") for name in files if name.endswith(".png")],
        "folder": FIGURES_FOLDER,
    }
    write_pages(out, package=__package__, names=(TEXT_FILE, REPORT_FILE), content=content)
    return out / REPORT_FILE
