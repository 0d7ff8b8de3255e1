"""A plan on a terminal."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from backstay.sizing.figures import Figure
from backstay.sizing.plan import Plan
from backstay.sizing.rates import MACHINE, rate_names


def plan_picture(plan: Plan) -> Group:
    """Update, service, scaling and rates, each as a table."""
    update = _figures("One update: fit and conversion", plan.update)
    service = _figures("The look-up service", plan.service)
    scaling = _table("Workers", "workers", "fit, edges/s", "conversion, rows/s", "known")
    for row in plan.scaling:
        scaling.add_row(f"{row.workers}", _number(row.fit), _number(row.convert), row.known)
    rates = _table("Rates", "rate", "value", "unit", "source")
    for name, field in rate_names().items():
        rate = getattr(plan.rates, field)
        rates.add_row(name, _number(rate.value), rate.unit, rate.source)
    tables = [update, service, scaling, rates]
    return Group(
        *(part for table in tables for part in (table, Text())),
        Text(f"Measured on {MACHINE}. --rate NAME=VALUE takes your own figure."),
    )


def _figures(title: str, figures: tuple[Figure, ...]) -> Table:
    table = _table(title, "", "value", "unit", "how")
    for figure in figures:
        table.add_row(figure.name, _number(figure.value), figure.unit, figure.how)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, title=title, title_justify="left", header_style="bold")
    for column in columns:
        left = column in {"", "how", "unit", "rate", "source", "known"}
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    return table


def _number(value: float) -> str:
    """Whole where it is large or whole, else three digits."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"  # noqa: PLR2004
