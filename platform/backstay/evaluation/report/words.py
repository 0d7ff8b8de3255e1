"""Texts of the report about methods, tasks and columns, and figures as text."""

import json
from collections.abc import Mapping, Sequence

from backstay.evaluation.analysis.significance import FIX_M0, NO_BC
from backstay.evaluation.comparison.results import RETRIEVAL
from backstay.evaluation.metrics.bootstrap import Interval

METHODS = {
    "fix-m0": "Never replaces the first model: nothing breaks, and nothing improves.",
    "finetune": "Trains the newest model further; old consumers read its vectors unchanged.",
    "no-bc": "Trains a new model each time; old consumers read the first dimensions of its "
    "vectors, which are unrelated to the old ones.",
    "posthoc-linear-single": "Trains a new model each time, and afterwards fits a linear map back "
    "to the previous version.",
    "posthoc-linear-multi": "Trains a new model each time, and afterwards fits a linear map back "
    "against all older versions at once.",
    "joint-identity": "Trains a new model whose first dimensions stay close to the older vectors.",
    "joint-linear-single": "Trains model and linear map together against the previous version.",
    "bc-aligner": "Trains model and linear map together against all older versions at once.",
    "posthoc-ridge": "Trains a new model each time; the map back, with an intercept, is the "
    "closed-form optimum of linear maps fitted afterwards.",
    "posthoc-procrustes": "Trains a new model each time; the map back is the best rotation, which "
    "neither stretches nor shrinks.",
    "posthoc-low-rank": "Trains a new model each time; brings the vectors into a standard form by "
    "a low-rank decomposition of their scores, and rotates them back (arXiv 2508.07574).",
    "backstay": "Extends the old model, which stays frozen: the new model learns a change of basis "
    "of the old dimensions, and new dimensions. The map back inverts the change of basis exactly.",
}
"""A sentence or two per method."""

FURTHER_METHOD = "A method that is not built into Backstay."

TASKS = {
    "user_activity": "Will this user come back in the next window?",
    "positive_user_activity": "Will this user give a good rating in the next window?",
    "edge_rating": "Does this user like this item (rating of at least 4)?",
    "item_rating_mean": "Is this item rated better than the median item?",
    "item_rating_spread": "Does this item divide opinions (standard deviation of at least 1)?",
    RETRIEVAL: "An index of version-0 item vectors, searched with new users' vectors mapped back.",
}
"""The question behind each consumer."""

COLUMNS = {
    "Recommendation": "The purpose of the update: mean Recall@50 over the versions, each on the "
    f"time after its training data, in percent against {NO_BC}, which ignores old consumers.",
    "Old consumers": "The side effect of the update: mean ROC-AUC of models trained once on "
    f"version 0 that read every later version as version 0, in percent against {FIX_M0}, which "
    "never changes their input.",
    "Sum": "Both percentages added: the total cost of an update method. Higher is better.",
    "Distance": "Mean distance between the vectors an old consumer gets and M_0's own vectors of "
    "the same snapshot (alignment error).",
    "Fit": "Wall-clock time of all fits of the method.",
    "Memory": "Peak memory of its fits.",
}
"""What each column of the comparison table means."""

INTERVALS = (
    "Intervals come from resampled users, items and consumer seeds, the same for every method, so "
    "that differences are paired. They don't cover what another seed of the embedding models would "
    "change."
)

SLICES = {
    "all": "everything",
    "users": "users",
    "items": "items",
    "head_items": "head items",
    "tail_items": "tail items",
    "new": "new since version 0",
}
"""Slices of entities, as column headings."""


def plain(name: str) -> str:
    """A name without underscores."""
    return name.replace("_", " ")


def percent(value: float | None) -> str:
    """A percentage with its sign; a dash for None."""
    text = signed(value)
    return text if value is None else f"{text} %"


def signed(value: float | None, digits: int = 1) -> str:
    """A number with its sign; a dash for None."""
    if value is None:
        return "–"
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return ("−" if value < 0 else "+") + text


def between(interval: Interval | None, digits: int = 1) -> str:
    """The ends of an interval; empty if it is None or has no width."""
    if interval is None or interval[0] == interval[1]:
        return ""
    return " to ".join(signed(end, digits) for end in interval)


def share(value: float | None) -> str:
    """A share in [0, 1] as a percentage without a sign; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %".replace("-", "−")


def number(value: float | None, digits: int = 3) -> str:
    """A number without a sign for plus; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Seconds, minutes from 120 s on, or hours from 2 h on; a dash for None."""
    if seconds is None:
        return "–"
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"  # noqa: PLR2004


def memory(megabytes: float | None) -> str:
    """Megabytes of 10⁶ bytes, or gigabytes from one on; a dash for None."""
    if megabytes is None:
        return "–"
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"  # noqa: PLR2004


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, final = names
    return f"{', '.join(others)} {last} {final}" if others else final


def value(found: object) -> str:
    """A JSON value on one line."""
    if isinstance(found, str):
        return found
    if isinstance(found, Mapping):
        return ", ".join(f"{plain(key)} {value(inner)}" for key, inner in found.items())
    if isinstance(found, (list, tuple)):
        return ", ".join(map(value, found))
    return f"{found:,}" if type(found) is int else json.dumps(found)
