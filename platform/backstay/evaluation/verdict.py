"""Which update method costs whom what, and how sure that is, in sentences."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot

from backstay.evaluation.figures import FIX_M0, NO_BC
from backstay.evaluation.results import Results, Summary
from backstay.evaluation.uncertainty import Uncertainty
from backstay.evaluation.words import percent

SURE = 2.0
"""Standard errors between two sums before one of them counts as ahead."""


@dataclass(frozen=True)
class Standing:
    """One method and how far the best one is ahead of it, in points of the sum."""

    row: Summary
    behind: float
    error: float | None  # standard error of `behind`; None where it can't be told

    @property
    def close(self) -> bool:
        """Too close to the best one to call."""
        return self.error is not None and self.behind < SURE * self.error


def standings(results: Results, errors: Mapping[str, Uncertainty]) -> list[Standing]:
    """The methods that have a sum, best first."""
    judged = sorted(
        ((row, row.total_pct) for row in results.summary if row.total_pct is not None),
        key=lambda pair: -pair[1],
    )
    known = {method: error.total_pct for method, error in errors.items()}
    places = []
    for row, total in judged:
        own, best = known.get(row.method), known.get(judged[0][0].method)
        error = None if own is None or best is None else hypot(own, best)
        places.append(Standing(row, judged[0][1] - total, error))
    return places


def leaders(places: list[Standing]) -> list[str]:
    """The best method and those too close to it to call; empty where nothing is compared."""
    if len(places) < 2:  # noqa: PLR2004
        return []
    best, *others = places
    return [best.row.method, *(other.row.method for other in others if other.close)]


def verdict(places: list[Standing]) -> list[str]:
    """Sentences for the top of the report, the most important one first."""
    if not places:
        return [
            f"Run the baselines {NO_BC} and {FIX_M0} as well to learn what an update costs whom."
        ]
    best, *others = places
    sentences = _lead(places) if others else [f"{best.row.method}: {_costs(best.row)}."]
    for row in (other.row for other in others if not other.close):
        if row.method == NO_BC:
            change = _change("what old consumers deliver", row.unintended_pct, FIX_M0)
            sentences.append(f"Shipping without compatibility ({NO_BC}): {change}.")
        if row.method == FIX_M0:
            change = _change("recommendation", row.intended_pct, NO_BC)
            sentences.append(f"Never updating ({FIX_M0}): {change}.")
    return sentences


def _lead(places: list[Standing]) -> list[str]:
    """Who is ahead in the sum, and whether that is more than noise."""
    best, second, *_ = places
    among = f"Of {len(places)} update methods,"
    ahead = f"{second.behind:.1f} points ahead of {second.row.method}"
    sure = f"(standard error {second.error:.1f})" if second.error is not None else ""
    close = [place.row for place in places[1:] if place.close]
    if close:
        *names, last = leaders(places)
        return [
            f"{among} {', '.join(names)} and {last} cost everybody the least.",
            f"This run can't tell them apart: {best.row.method} is {ahead} {sure}.",
            *(f"With {row.method}, {_costs(row)}." for row in (best.row, *close)),
        ]
    least = f"{among} {best.row.method} costs everybody the least: {_costs(best.row)}."
    if not sure:
        return [least, f"It is {ahead}; this run can't tell how sure that is."]
    return [
        least,
        f"It is {ahead} {sure}, more than the users and the consumers' seeds explain.",
        "Another seed of the embedding models may still move it.",
    ]


def _costs(row: Summary) -> str:
    """What both sides pay, as a clause."""
    return (
        f"{_change('recommendation', row.intended_pct, NO_BC)}, and "
        f"{_change('what old consumers deliver', row.unintended_pct, FIX_M0)}"
    )


def _change(what: str, value: float | None, baseline: str) -> str:
    change = value or 0.0
    if percent(change) == "0.0 %":
        return f"{what} stays where {baseline} has it"
    return f"{what} {'loses' if change < 0 else 'gains'} {abs(change):.1f} % against {baseline}"
