"""The tables of the report on costs, and the list of all tables."""

from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.analysis.groups import SUM
from backstay.evaluation.analysis.significance import FIX_M0
from backstay.evaluation.report import compatibility_tables as compatible
from backstay.evaluation.report import words
from backstay.evaluation.report.table import Row, Table, TableCell, cost_shade, rows


def tables(analysis: Analysis) -> dict[str, Table]:
    """Every table that has a figure, by its key."""
    made = (
        comparison(analysis),
        differences(analysis),
        consumers(analysis),
        compatible.shares(analysis),
        compatible.criterion(analysis),
        compatible.flips(analysis),
        compatible.slices(analysis),
        compatible.maps(analysis),
    )
    return {table.key: table for table in made if not table.empty}


def comparison(analysis: Analysis) -> Table:
    """The three figures of each method with their intervals, and the cost of its fits."""
    made = []
    for row in analysis.table:
        intended = words.between(row.intended_interval), words.number(row.intended_recall50, 4)
        unintended = words.between(row.unintended_interval), words.number(row.unintended_auc, 4)
        cells = (
            TableCell(words.percent(row.intended_pct), intended),
            TableCell(words.percent(row.unintended_pct), unintended),
            TableCell(words.percent(row.total_pct), (words.between(row.total_interval),)),
            TableCell(words.number(row.alignment_error)),
            TableCell(words.duration(row.fit_seconds)),
            TableCell(words.memory(row.peak_rss_mb)),
        )
        made.append(Row(row.method, cells, chosen=row.method in analysis.decision.methods))
    return Table(
        "comparison",
        "The comparison",
        f"Below a percentage: its 95 % interval and the mean it is made from. {words.INTERVALS}",
        tuple(words.COLUMNS),
        tuple(made),
    )


def differences(analysis: Analysis) -> Table:
    """Differences between every two methods' sums, where they are significant."""
    methods = [row.method for row in analysis.table if row.total_pct is not None]
    found = {}
    for pair in analysis.pairs:
        if pair.figure == SUM and pair.significant:
            found[pair.first, pair.second] = pair.difference
            found[pair.second, pair.first] = -pair.difference

    def cell(method: str, other: str) -> TableCell:
        if method == other:
            return TableCell("")
        gap = found.get((method, other))
        if gap is None:
            return TableCell("≈", shade="even")
        return TableCell(words.signed(gap), shade="good" if gap > 0 else "bad1")

    return Table(
        "apart",
        "Significant differences",
        "Points by which the sum of the method on the left is above (+) or below (−) that of the "
        "method in the column's heading. ≈: no significant difference in this run. Of a hundred "
        "pairs of equal methods, five differ significantly by chance.",
        tuple(methods),
        rows(methods, methods, cell),
        dense=True,
    )


def consumers(analysis: Analysis) -> Table:
    """What each consumer loses by each method."""
    means, costs = analysis.consumers.mean, analysis.consumers.cost
    tasks = dict.fromkeys(task for row in means.values() for task in row)

    def cell(method: str, task: str) -> TableCell:
        mean = means.get(method, {}).get(task)
        if mean is None:
            return TableCell()
        if not costs:  # without fix-m0 there is no percentage
            return TableCell(words.number(mean))
        cost = costs.get(method, {}).get(task)
        return TableCell(words.percent(cost), (words.number(mean),), cost_shade(cost))

    return Table(
        "consumers",
        "Cost for each consumer",
        f"Each consumer's mean over versions and seeds, in percent against {FIX_M0}; below it the "
        "ROC-AUC itself (0.5 is chance, 1 is perfect), or Recall@50 for retrieval.",
        tuple(words.plain(task) for task in tasks),
        rows(analysis.methods, tasks, cell),
    )
