"""What the report says in plain words about methods, tasks, columns and figures."""

from backstay.evaluation.figures import FIX_M0, NO_BC

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
}
"""One sentence a method of the paper."""

TASKS = {
    "user_activity": "Will this user come back in the next window?",
    "positive_user_activity": "Will this user give a good rating in the next window?",
    "edge_rating": "Does this user like this item (rating of at least 4)?",
    "item_rating_mean": "Is this item rated better than the median item?",
    "item_rating_spread": "Does this item divide opinions (standard deviation of at least 1)?",
}
"""The question behind each consumer task."""

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
    "Fit": "Wall-clock time of all fits of the method, and the most memory one of them held.",
}
"""What each column of the comparison table means."""


def percent(value: float | None) -> str:
    """A percentage with its sign; a dash for None."""
    if value is None:
        return "–"
    text = f"{abs(value):.1f} %"
    if text == "0.0 %":
        return text
    return ("−" if value < 0 else "+") + text


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
