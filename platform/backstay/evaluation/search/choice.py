"""The rule that chooses a trial."""

from collections.abc import Sequence
from typing import Literal, get_args

from backstay.evaluation.comparison.results import Summary

Rule = Literal["least-intended-cost", "best-sum"]
"""least-intended-cost: the best recommendation among the trials whose consumers lose no more than
tolerated at the lower end of the 95 % interval. best-sum: the best sum of both costs."""

RULES: tuple[Rule, ...] = get_args(Rule)

TOLERANCE = 2.0
"""Percent of ROC-AUC that consumers may lose."""


def least_certain(row: Summary) -> float:
    """The lower end of the 95 % interval of the consumers' figure, or the figure without one."""
    if row.unintended_interval:
        return row.unintended_interval[0]
    return row.unintended_pct or 0.0


def choose(
    rows: Sequence[Summary], *, rule: Rule = "least-intended-cost", tolerance: float = TOLERANCE
) -> tuple[Summary | None, bool]:
    """The row that the rule chooses, and whether its whole interval keeps the tolerance.

    If no row keeps it, `least-intended-cost` chooses the one whose consumers surely lose least.
    Rows without both figures are left out; None if none is left.
    """
    measured = [row for row in rows if row.total_pct is not None]
    if not measured:
        return None, False
    sure = [row for row in measured if least_certain(row) >= -tolerance]
    if rule == "best-sum":
        best = max(measured, key=lambda row: row.total_pct or 0.0)
    elif sure:
        best = max(sure, key=lambda row: (row.intended_pct or 0.0, least_certain(row)))
    else:
        best = max(measured, key=least_certain)
    return best, best in sure
