"""`backstay plan`: how many machines a version and its readers need."""

import click

from backstay.cli import options
from backstay.terminal import Command, Output


def _count(text: str) -> int:
    value = float(text.replace("_", "").replace(",", ""))
    if not value.is_integer():
        raise ValueError(text)
    return int(value)


def _assignment(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, float(value)


_COUNT = options.Parsed(_count, "a whole number, such as 1000000 or 1e6")
_RATE = options.Parsed(_assignment, "NAME=VALUE with a number")


@click.command(
    cls=Command,
    example="backstay plan --rows 1e7 --dim 256 --qps 2000 --deadline 6 --price-per-core-hour 0.05",
)
@click.option(
    "--rows", type=_COUNT, required=True, metavar="N", help="Rows of a version's tables together."
)
@click.option("--dim", type=options.POSITIVE, required=True, help="Dimension of the vectors.")
@click.option("--qps", type=float, required=True, metavar="X", help="Look-up requests a second.")
@click.option(
    "--deadline",
    type=float,
    required=True,
    metavar="HOURS",
    help="Time for the fit and the conversion of all rows to one older version.",
)
@click.option(
    "--interactions",
    type=_COUNT,
    metavar="N",
    help="Interactions that the version is fitted on; 0: no fit.  [default: 10 for each row]",
)
@click.option(
    "--ids-per-request", type=options.POSITIVE, default=1, metavar="N", help="Ids of a request."
)
@click.option(
    "--node-cores", type=options.POSITIVE, default=16, metavar="N", help="Cores of a machine."
)
@click.option("--node-memory", type=float, default=64.0, metavar="GIB", help="Memory of a machine.")
@click.option(
    "--price-per-core-hour",
    type=float,
    metavar="PRICE",
    help="Price of a core for an hour, in any currency. Without it, no money is computed.",
)
@click.option(
    "--rate",
    "rates",
    type=_RATE,
    multiple=True,
    metavar="NAME=VALUE",
    help="Your own figure in place of a measured one; the answer lists their names. Can be given "
    "several times.",
)
@click.pass_obj
def plan(output: Output, /, rates: tuple[tuple[str, float], ...], **asked: object) -> None:
    """Estimate machines, hours and money from measured rates.

    Prints the arithmetic of every figure, and where each rate was measured. Nothing is started.
    Speeds of up to two workers are measured; those of more are simulated.
    """
    from backstay.sizing.demand import Demand
    from backstay.sizing.picture import plan_picture
    from backstay.sizing.plan import make_plan
    from backstay.sizing.rates import MEASURED

    demand = Demand(**options.given(asked))
    found = make_plan(demand, MEASURED.with_values(dict(rates)))
    output.show(found, picture=plan_picture(found))


COMMANDS = (plan,)
