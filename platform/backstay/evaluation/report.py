"""The report of a comparison: a page, a text, plots, and the table for a terminal."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from rich import box
from rich.table import Table

from backstay.evaluation import words
from backstay.evaluation.figures import mean_over_tasks, values_of
from backstay.evaluation.files import write_whole
from backstay.evaluation.results import Results
from backstay.evaluation.uncertainty import Uncertainty, uncertainties
from backstay.evaluation.verdict import leaders, standings, verdict

REPORT_FILE = "report.html"
TEXT_FILE = "report.md"
FIGURES_FOLDER = "figures"


def write_report(results: Results, out: Path) -> Path:
    """Write `report.html`, `report.md` and `figures/*.{png,svg}` into the folder `out`.

    The page is self-contained: it loads nothing. Returns its path.
    """
    from backstay.evaluation import plots  # noqa: PLC0415 - matplotlib, only where a report is made

    errors = uncertainties(results.records)
    panels = plots.panels(results, errors)
    methods = [row.method for row in results.summary]
    files = plots.figure_files(panels, methods)
    for name, content in files.items():
        write_whole(out / FIGURES_FOLDER / name, content)
    told = {
        **_content(results, errors),
        "styles": plots.styles(methods),
        "panels": [(panel, Markup(plots.inline_svg(panel))) for panel in panels],  # noqa: S704
        "images": [name for name in files if name.endswith(".png")],
        "folder": FIGURES_FOLDER,
    }
    environment = Environment(
        loader=PackageLoader("backstay.evaluation", "."),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in (TEXT_FILE, REPORT_FILE):
        text = environment.get_template(f"{name}.j2").render(told)
        write_whole(out / name, text.encode())
    return out / REPORT_FILE


def terminal_table(results: Results) -> Table:
    """The comparison table for a terminal; ± is one standard error."""
    table = Table(
        title=f"What an update costs: {results.dataset.get('name', 'this data set')}",
        caption="% against no-bc (Recall) and fix-m0 (AUC); ± one standard error",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("method", overflow="fold")
    for heading in ("Recall\n@50", "\n%", "ROC-\nAUC", "\n%", "sum\n%", "dis-\ntance", "\nfit"):
        table.add_column(heading, justify="right", no_wrap=True)
    errors = uncertainties(results.records)
    best = leaders(standings(results, errors))
    for row in results.summary:
        error = errors.get(row.method)
        table.add_row(
            row.method,
            words.number(row.intended_recall50),
            _with_error(row.intended_pct, error.intended_pct if error else None),
            words.number(row.unintended_auc),
            _with_error(row.unintended_pct, error.unintended_pct if error else None),
            words.percent(row.total_pct).removesuffix(" %"),
            words.number(row.alignment_error),
            words.duration(row.fit_seconds),
            style="bold" if row.method in best else None,
        )
    return table


def _with_error(value: float | None, error: float | None) -> str:
    text = words.percent(value).removesuffix(" %")
    return f"{text} ±{error:.1f}" if value is not None and error else text


def _content(results: Results, errors: dict[str, Uncertainty]) -> dict[str, Any]:
    """What both templates say."""
    protocol = dict(results.protocol)
    left_out = protocol.pop("left_out", [])
    notes = protocol.pop("notes", [])
    places = standings(results, errors)
    aucs = values_of(results.records, "roc_auc")
    methods = [row.method for row in results.summary]
    tasks = dict.fromkeys(record.task for record in results.records if record.metric == "roc_auc")
    return {
        "name": results.dataset.get("name", "this data set"),
        "counts": results.dataset.get("counts", {}),
        "rows": results.summary,
        "errors": errors,
        "nothing": Uncertainty(intended_pct=None, unintended_pct=None),
        "leaders": leaders(places),
        "methods": methods,
        "verdict": verdict(places),
        "words": words,
        "tasks": [
            (
                task,
                words.TASKS.get(task, ""),
                [
                    mean_over_tasks({task: aucs[method][task]})
                    if task in aucs.get(method, {})
                    else None
                    for method in methods
                ],
            )
            for task in tasks
        ],
        "left_out": left_out,
        "notes": notes,
        "run": [
            (key.replace("_", " "), _plain(value))
            for part in ({"dataset": results.dataset}, {"protocol": protocol})
            for group, values in part.items()
            for key, value in values.items()
            if (group, key) != ("dataset", "name")
        ],
    }


def _plain(value: Any) -> str:
    """A JSON value on one line, for people."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(inner) for inner in value)
    return f"{value:,}" if type(value) is int else json.dumps(value)
