"""Whether to ship the update, and with which method: a decision as codes and figures.

An update is shipped only if a method satisfies both conditions:

- It recommends significantly better than never updating.
- The whole interval of what old consumers lose lies within `TOLERATED`.

Of several such methods the one with the best sum of both costs is chosen, with all that don't
differ significantly from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from backstay.evaluation.analysis.codes import (
    TOLERATED,
    Cause,
    ConsumerLoss,
    Decision,
    MethodFigure,
    Reason,
    ReasonCode,
)
from backstay.evaluation.analysis.groups import Order
from backstay.evaluation.analysis.significance import FIX_M0, NO_BC, missing_baselines
from backstay.evaluation.analysis.summary import ByTask
from backstay.evaluation.comparison.results import Replicates, Results, Summary
from backstay.evaluation.metrics.bootstrap import Interval, interval


def gains_over_fix_m0(
    summary: Sequence[Summary], replicates: Sequence[Replicates]
) -> dict[str, MethodFigure]:
    """Percent by which a method's Recall@50 is above `fix-m0`'s, paired; by method."""
    means = {
        row.method: row.intended_recall50
        for row in summary
        if row.intended_pct is not None and row.intended_recall50 is not None
    }
    if not means.get(FIX_M0):
        return {}
    recalls = {part.method: part.recall for part in replicates if part.recall}
    found = {}
    for method, mean in means.items():
        bounds = None
        if method in recalls and FIX_M0 in recalls:
            pairs = zip(recalls[method], recalls[FIX_M0], strict=True)
            bounds = interval([100 * (ours / theirs - 1) for ours, theirs in pairs if theirs])
        found[method] = _figure(method, 100 * (mean / means[FIX_M0] - 1), bounds)
    return found


def decide(results: Results, order: Order, consumer_costs: ByTask) -> Decision:
    """Decide on the results; methods with failed cells are left out of the decision."""
    case = _Case(results, order, consumer_costs)
    cause, leading = case.cause()
    return Decision(
        cause=cause,
        leading=tuple(candidate.name for candidate in leading),
        reasons=(*case.reasons(cause, leading), *_failed_cells(results)),
    )


@dataclass(frozen=True)
class _Candidate:
    """A method to ship with, and its figures in percent."""

    name: str
    gain: MethodFigure  # Recall@50 over fix-m0's
    loss: MethodFigure  # ROC-AUC over fix-m0's: below zero old consumers lose
    price: MethodFigure  # Recall@50 over no-bc's
    total: MethodFigure  # the sum of loss and price

    @classmethod
    def of(cls, row: Summary, gain: MethodFigure) -> Self:
        loss, price, total = (
            _figure(row.method, *found)
            for found in (
                (row.unintended_pct, row.unintended_interval),
                (row.intended_pct, row.intended_interval),
                (row.total_pct, row.total_interval),
            )
        )
        return cls(row.method, gain, loss, price, total)

    @property
    def gains(self) -> bool:
        """It recommends significantly better than never updating."""
        return self.gain.interval is not None and self.gain.interval[0] > 0

    @property
    def tolerated(self) -> bool:
        return self.loss.value >= -TOLERATED

    @property
    def interval_tolerated(self) -> bool:
        return self.loss.interval is not None and self.loss.interval[0] >= -TOLERATED


class _Case:
    """The candidates and the figures that the decision depends on."""

    def __init__(self, results: Results, order: Order, consumer_costs: ByTask) -> None:
        self.rows = {row.method: row for row in results.summary}
        self.failed = {failure.method for failure in results.failures}
        self.order, self.consumer_costs = order, consumer_costs
        gains = gains_over_fix_m0(results.summary, results.replicates)
        self.candidates = [
            _Candidate.of(self.rows[method], gains[method])
            for method in order.totals
            if method != FIX_M0 and method in gains
        ]
        self.missing = missing_baselines(order.totals)

    def cause(self) -> tuple[Cause, list[_Candidate]]:
        """The cause of the decision, with the candidates it rests on."""
        if self.missing or not self.candidates:
            return "nothing-to-compare", []
        if all(candidate.gain.interval is None for candidate in self.candidates):
            return "no-intervals", []
        gaining = [candidate for candidate in self.candidates if candidate.gains]
        if not gaining:
            return "no-gain", [max(self.candidates, key=lambda candidate: candidate.gain.value)]
        tolerated = [candidate for candidate in gaining if candidate.tolerated]
        if not tolerated:
            return "too-costly", [max(gaining, key=lambda candidate: candidate.loss.value)]
        proven = [candidate for candidate in tolerated if candidate.interval_tolerated]
        return (
            ("proven", self._leading(proven))
            if proven
            else ("loss-uncertain", self._leading(tolerated))
        )

    def _leading(self, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """The best sum and those that don't differ from it, in the order of the table."""
        best = max(candidates, key=lambda candidate: candidate.total.value)
        return [
            candidate
            for candidate in candidates
            if candidate is best or not self.order.differ(best.name, candidate.name)
        ]

    def reasons(self, cause: Cause, leading: Sequence[_Candidate]) -> list[Reason]:
        """The reasons for the decision, the most important first."""
        match cause:
            case "nothing-to-compare":
                return [self._nothing_to_compare()]
            case "no-intervals":
                return [Reason(code="no-replicates")]
            case "no-gain":
                bounds = leading[0].gain.interval
                worse = bounds is not None and bounds[1] < 0
                return [
                    self._gain(leading, "recommends-worse" if worse else "gain-not-significant"),
                    *self._without_compatibility(()),
                    Reason(code="keep-version"),
                ]
            case "too-costly":
                return [
                    self._gain(leading),
                    self._loss(leading, "loss-too-great"),
                    *self._without_compatibility(leading),
                    Reason(code="weigh-compatibility"),
                ]
            case "loss-uncertain":
                return [
                    self._gain(leading),
                    self._loss(leading, "loss-uncertain"),
                    *self._without_compatibility(leading),
                    Reason(code="measure-more"),
                ]
            case "proven":
                return [
                    self._gain(leading),
                    self._loss(leading, "loss-tolerated"),
                    Reason(code="compatibility-price", figures=tuple(c.price for c in leading)),
                    *self._without_compatibility(leading),
                    *self._rejected(leading),
                ]

    def _nothing_to_compare(self) -> Reason:
        broken = tuple(name for name in self.missing if name in self.failed)
        if broken:
            return Reason(code="baseline-failed", methods=broken)
        if self.missing:
            return Reason(code="baseline-missing", methods=self.missing)
        return Reason(code="no-update-method")

    def _gain(self, leading: Sequence[_Candidate], code: ReasonCode = "gain") -> Reason:
        return Reason(code=code, figures=tuple(c.gain for c in leading))

    def _loss(self, leading: Sequence[_Candidate], code: ReasonCode) -> Reason:
        return Reason(
            code=code,
            figures=tuple(c.loss for c in leading),
            hardest_hit=tuple(hit for c in leading for hit in self._hardest_hit(c.name)),
        )

    def _without_compatibility(self, chosen: Sequence[_Candidate]) -> list[Reason]:
        free = self.rows.get(NO_BC)
        if free is None or free.unintended_pct is None or NO_BC in (c.name for c in chosen):
            return []
        cost = _figure(NO_BC, free.unintended_pct, free.unintended_interval)
        return [
            Reason(
                code="without-compatibility",
                figures=(cost,),
                hardest_hit=self._hardest_hit(NO_BC),
            )
        ]

    def _rejected(self, leading: Sequence[_Candidate]) -> list[Reason]:
        """Methods that have a better sum than those to ship with."""
        best = max(candidate.total.value for candidate in leading)
        rejected = [
            candidate
            for candidate in self.candidates
            if candidate not in leading and candidate.total.value > best
        ]
        if not rejected:
            return []
        return [
            Reason(
                code="better-sum-rejected",
                figures=tuple(c.total for c in rejected),
                losses=tuple(c.loss for c in rejected if c.gains),
            )
        ]

    def _hardest_hit(self, method: str) -> tuple[ConsumerLoss, ...]:
        """The consumer that loses most, unless its loss rounds to zero or to the mean loss."""
        costs = self.consumer_costs.get(method, {})
        if not costs:
            return ()
        task = min(costs, key=lambda name: costs[name])
        mean = self.rows[method].unintended_pct
        shown = round(costs[task], 1)
        if costs[task] >= 0 or not shown or (mean is not None and shown == round(mean, 1)):
            return ()
        return (ConsumerLoss(method=method, task=task, value=costs[task]),)


def _failed_cells(results: Results) -> list[Reason]:
    if not results.failures:
        return []
    without = tuple(row.method for row in results.summary if row.total_pct is None)
    return [Reason(code="cells-failed", methods=without, count=len(results.failures))]


def _figure(method: str, value: float | None, bounds: Interval | None) -> MethodFigure:
    return MethodFigure(method=method, value=value or 0.0, interval=bounds)
