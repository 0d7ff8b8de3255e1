"""Writing a report: a page, a Markdown text, a JSON document, and figures as files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

from markupsafe import Markup

from backstay.evaluation.analysis.codes import TOLERATED
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.analysis.groups import Group
from backstay.evaluation.comparison.results import Failure
from backstay.evaluation.report import words
from backstay.evaluation.report.document import document
from backstay.evaluation.report.table import Table
from backstay.evaluation.report.tables import tables
from backstay.evaluation.report.templates import write_pages
from backstay.evaluation.report.verdict import Verdict, verdict
from backstay.storage.atomic import write_file

if TYPE_CHECKING:
    from backstay.evaluation.report.plots import Panel

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


class UnjudgedTask(TypedDict):
    """A task that could not be judged, at one version or at all, as results.json has it."""

    task: str
    version: int | None
    reason: str


class Content(TypedDict):
    """What the templates render."""

    name: str
    counts: Mapping[str, int]
    verdict: Verdict
    tolerated: float
    failures: Sequence[Failure]
    groups: Sequence[Group]
    tables: Mapping[str, Table]
    sections: Mapping[str, Section]
    methods: Sequence[str]
    words: ModuleType
    left_out: Sequence[UnjudgedTask]
    notes: Sequence[str]
    run: Sequence[tuple[str, str]]
    keys: Mapping[str, Markup]  # the marker of each method
    panels: Sequence[tuple["Panel", Markup]]
    images: Sequence[str]
    folder: str


def write_report(analysis: Analysis, out: Path) -> Path:
    """Write `report.html`, `.md` and `.json`, and `figures/*.{png,svg}` into the folder `out`.

    The page is self-contained: it loads nothing. Returns its path.
    """
    from backstay.evaluation.report import plots  # noqa: PLC0415 - loads matplotlib

    results = analysis.results
    style_of = plots.styles(analysis.methods)
    panels = plots.panels(analysis)
    files = plots.figure_files(panels, style_of)
    for name, file in files.items():
        write_file(out / FIGURES_FOLDER / name, file)
    text = json.dumps(document(analysis), indent=1, ensure_ascii=False)
    write_file(out / DOCUMENT_FILE, f"{text}\n".encode())
    content = Content(
        name=results.dataset.get("name", "this data set"),
        counts=results.dataset.get("counts", {}),
        verdict=verdict(analysis.decision),
        tolerated=TOLERATED,
        failures=results.failures,
        groups=analysis.groups,
        tables=tables(analysis),
        sections=_SECTIONS,
        methods=analysis.methods,
        words=words,
        left_out=results.protocol.get("left_out", []),
        notes=results.protocol.get("notes", []),
        run=[
            (words.plain(key), words.value(value))
            for part, shown_elsewhere in (
                (results.dataset, {"name"}),
                (results.protocol, {"left_out", "notes"}),
            )
            for key, value in part.items()
            if key not in shown_elsewhere
        ],
        keys={method: Markup(plots.marker_svg(style)) for method, style in style_of.items()},  # noqa: S704
        panels=[(panel, Markup(plots.inline_svg(panel))) for panel in panels],  # noqa: S704
        images=[name.removesuffix(".png") for name in files if name.endswith(".png")],
        folder=FIGURES_FOLDER,
    )
    write_pages(
        out,
        package="backstay.evaluation.report",
        names=(TEXT_FILE, REPORT_FILE),
        content=content,
    )
    return out / REPORT_FILE
