"""The comparison table for a terminal."""

from rich import box
from rich.table import Table

from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.metrics.bootstrap import Interval
from backstay.evaluation.report import words
from backstay.evaluation.report.verdict import verdict


def terminal_table(analysis: Analysis) -> Table:
    """The comparison table with 95 % intervals; the verdict below."""
    name = analysis.results.dataset.get("name", "this data set")
    table = Table(
        title=f"What an update costs: {name}",
        caption=f"{verdict(analysis.decision).headline}\n"
        "% against no-bc (Recall@50) and fix-m0 (ROC-AUC); ±: half the 95 % interval",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("method", overflow="fold")
    for heading in ("Recall\n%", "ROC-AUC\n%", "sum\n%", "dis-\ntance", "\nfit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in analysis.table:
        table.add_row(
            row.method,
            _with_interval(row.intended_pct, row.intended_interval),
            _with_interval(row.unintended_pct, row.unintended_interval),
            _with_interval(row.total_pct, row.total_interval),
            words.number(row.alignment_error, 2),
            words.duration(row.fit_seconds),
            style="bold" if row.method in analysis.decision.methods else None,
        )
    return table


def _with_interval(value: float | None, interval: Interval | None) -> str:
    """`−0.6 ±0.4`; the figure alone if the interval is missing or has no width."""
    text = words.signed(value)
    if interval is None or interval[0] == interval[1]:
        return text
    return f"{text} ±{(interval[1] - interval[0]) / 2:.1f}"
