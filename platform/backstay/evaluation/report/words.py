"""What the report says in plain words about methods, tasks, columns and figures."""

from collections.abc import Sequence

from backstay.evaluation.analysis.significance import FIX_M0, NO_BC
from backstay.evaluation.comparison.results import RETRIEVAL
from backstay.evaluation.metrics.bootstrap import Interval

METHODS = {
    "fix-m0": "The first model for ever: nothing breaks, and nothing gets better.",
    "finetune": "The newest model trained on; old consumers read its vectors as they are.",
    "no-bc": "A new model each time; old consumers read the first dimensions of vectors that were "
    "never meant for them.",
    "posthoc-linear-single": "A new model each time, and a linear map back to the version before "
    "fitted afterwards.",
    "posthoc-linear-multi": "A new model each time, and a linear map back fitted afterwards "
    "against all older versions at once.",
    "joint-identity": "A new model whose first dimensions are held to the older vectors.",
    "joint-linear-single": "Model and linear map trained together against the version before.",
    "bc-aligner": "Model and linear map trained together against all older versions at once.",
    "posthoc-ridge": "A new model each time; the map back, with an intercept, is solved in closed "
    "form: the best a linear map can do afterwards.",
    "posthoc-procrustes": "A new model each time; the map back is the best rotation, which neither "
    "stretches nor shrinks.",
    "posthoc-low-rank": "A new model each time; the vectors are put into a standard form by a "
    "low-rank decomposition of their scores, and rotated back (arXiv 2508.07574).",
    "backstay": "The new model is built onto the old one, which it keeps frozen: it learns a "
    "change of basis of the old dimensions and new dimensions beside them. The map back undoes the "
    "change of basis exactly.",
}
"""A sentence or two a method."""

FURTHER_METHOD = "A method of this comparison's own."

TASKS = {
    "user_activity": "Will this user come back in the next window?",
    "positive_user_activity": "Will this user give a good rating in the next window?",
    "edge_rating": "Does this user like this item (rating of at least 4)?",
    "item_rating_mean": "Is this item rated better than the median item?",
    "item_rating_spread": "Does this item divide opinions (standard deviation of at least 1)?",
    RETRIEVAL: "An index of version-0 item vectors, asked with new users' vectors led back.",
}
"""The question behind each consumer."""

COLUMNS = {
    "Recommendation": "What the update is for: mean Recall@50 over the versions, each on the time "
    f"after its training data; and how far that is from {NO_BC}, which is free of old consumers.",
    "Old consumers": "What the update does to others: mean ROC-AUC of models trained once on "
    f"version 0 and fed every later version read as version 0; and how far that is from {FIX_M0}, "
    "which never changes their input.",
    "Sum": "Both percentages together: what an update method costs everybody. Nearer to zero, or "
    "above it, is better.",
    "Distance": "Mean distance between the vectors an old consumer gets and those M_0 would give "
    "it today (alignment error).",
    "Fit": "Wall-clock time of all fits of the method.",
    "Memory": "The most memory one of its fits held.",
}
"""What each column of the comparison table means."""

INTERVALS = (
    "For intervals, users, items and consumer seeds were drawn again and again, the same ones for "
    "every method, so that methods are compared on equal terms. Intervals don't cover what fitting "
    "the embedding models with another seed would change."
)

SLICES = {
    "all": "everything",
    "users": "users",
    "items": "items",
    "head_items": "head items",
    "tail_items": "tail items",
    "new": "born later",
}
"""Slices of entities, as column headings."""


def plain(name: str) -> str:
    """A task's name for people."""
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
    """The ends of an interval; nothing where it is None or has no width."""
    if interval is None or interval[0] == interval[1]:
        return ""
    return " to ".join(signed(end, digits) for end in interval)


def share(value: float | None) -> str:
    """A share in [0, 1] as a percentage without a sign; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %".replace("-", "−")


def number(value: float | None, digits: int = 3) -> str:
    """A plain figure; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that suits their size; a dash for None."""
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
