"""The answer of a search on a terminal."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from backstay.evaluation.comparison.results import Summary
from backstay.evaluation.report.search_page import headline, honest_sentence
from backstay.evaluation.report.words import between, listed, signed
from backstay.evaluation.search.findings import SearchFindings


def search_table(findings: SearchFindings) -> Group:
    """The choice, its costs on the judged windows, and all trials."""
    later = _table(f"version {listed([*map(str, findings.judged_on)])}, not seen by the search")
    for row in findings.judgement.summary if findings.judgement else ():
        later.add_row(row.method, *_costs(row), "chosen" if row.method == findings.chosen else "")
    trials = _table(f"version {listed([*map(str, findings.selected_on)])}, by which it chose")
    for trial in findings.trials:
        notes = [
            "chosen" if trial.name == findings.chosen else "",
            "on the front" if trial.on_front else "",
            "" if trial.state == "finished" else f"{trial.state}: {trial.reason}",
        ]
        costs = _costs(trial.costs) if trial.costs else ("–",) * 3
        trials.add_row(trial.name, *costs, ", ".join(note for note in notes if note))
    return Group(
        Text(headline(findings)), Text(honest_sentence(findings)), Text(), later, Text(), trials
    )


def _table(title: str) -> Table:
    table = Table(box=None, title=title, title_justify="left", header_style="bold")
    table.add_column("trial")
    for column in ("recommendation, %", "old consumers, %", "sum, %"):
        table.add_column(column, justify="right")
    table.add_column("", overflow="fold")
    return table


def _costs(row: Summary) -> tuple[str, str, str]:
    return (
        _figure(row.intended_pct, row.intended_interval),
        _figure(row.unintended_pct, row.unintended_interval),
        _figure(row.total_pct, row.total_interval),
    )


def _figure(value: float | None, interval: tuple[float, float] | None) -> str:
    ends = between(interval)
    return f"{signed(value)} ({ends})" if ends else signed(value)
