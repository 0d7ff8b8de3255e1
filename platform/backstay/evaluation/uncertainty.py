"""How sure the figures of a method are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from backstay.evaluation.figures import FIX_M0, NO_BC, mean_over_tasks, values_of
from backstay.evaluation.results import RECOMMENDATION, Record


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Standard errors of a method's percentages, in points; None where they can't be told.

    They cover the validation users (paired with no-bc's) and the consumers' seeds (paired with
    fix-m0's), and not what fitting the embedding models with another seed would change.
    """

    intended_pct: float | None
    unintended_pct: float | None

    @property
    def total_pct(self) -> float | None:
        """Standard error of the sum, taking both parts as independent."""
        if self.intended_pct is None or self.unintended_pct is None:
            return None
        return sqrt(self.intended_pct**2 + self.unintended_pct**2)


def uncertainties(records: Sequence[Record]) -> dict[str, Uncertainty]:
    """The standard errors of every method's percentages."""
    recall = mean_over_tasks(values_of(records, "recall@50", task=RECOMMENDATION).get(NO_BC))
    gaps = values_of(records, "recall@50_gap_se", task=RECOMMENDATION)
    by_seed: dict[str, dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        by_seed[record.method]  # a method without consumers is listed too
        if record.metric == "roc_auc":
            by_seed[record.method][record.seed].append(record)
    aucs = {
        method: {
            seed: mean_over_tasks(values_of(part, "roc_auc")[method]) or 0.0
            for seed, part in seeds.items()
        }
        for method, seeds in by_seed.items()
    }
    return {
        method: Uncertainty(
            intended_pct=0.0 if method == NO_BC else _over_users(gaps.get(method), recall),
            unintended_pct=0.0 if method == FIX_M0 else _over_seeds(found, aucs.get(FIX_M0, {})),
        )
        for method, found in aucs.items()
    }


def _over_users(
    gaps: Mapping[str, Mapping[int, Sequence[float]]] | None, baseline: float | None
) -> float | None:
    """Standard error of the mean over versions, whose windows hold different edges."""
    if not gaps or not baseline:
        return None
    errors = [fmean(values) for values in gaps[RECOMMENDATION].values()]
    return 100 * sqrt(sum(error**2 for error in errors)) / len(errors) / baseline


def _over_seeds(found: Mapping[int, float], baseline: Mapping[int, float]) -> float | None:
    """Standard error over the consumers, each compared with itself on fix-m0's vectors."""
    gaps = [found[seed] - baseline[seed] for seed in found if seed in baseline]
    if len(gaps) < 2:  # noqa: PLR2004 - one seed has no spread
        return None
    return 100 * stdev(gaps) / sqrt(len(gaps)) / fmean(baseline.values())
