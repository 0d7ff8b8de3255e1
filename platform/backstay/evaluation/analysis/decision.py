"""Whether to ship the update, with which method, and why: a decision in words and as data.

The burden of proof lies with the update. It is to be shipped where a method makes recommendation
better than never updating, beyond noise, and where the whole interval of what it costs old
consumers lies within `TOLERATED`. Of several such methods the one with the best sum of both costs
is taken, together with those that can't be told apart from it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backstay.evaluation.analysis import breakdown as costs
from backstay.evaluation.analysis.breakdown import Estimate
from backstay.evaluation.analysis.groups import Order
from backstay.evaluation.analysis.significance import FIX_M0, NO_BC
from backstay.evaluation.comparison.results import Results, Summary
from backstay.evaluation.report.words import between, listed, percent, plain, signed

TOLERATED = 2.0
"""Percent of their ROC-AUC that old consumers may lose to an update."""

APART = "this run can't tell them apart"


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One question behind the decision, and what the run says to it."""

    question: str
    figure: str  # the answer at a glance, where it is a number
    answer: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision."""

    ship: bool | None  # None: the run can't tell
    methods: tuple[str, ...]  # to ship with: several where they can't be told apart
    headline: str
    reasons: tuple[Reason, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """All that is said, the most important first."""
        return self.headline, *(reason.answer for reason in self.reasons)


def verdict(results: Results) -> Verdict:
    """Decide on the results; what failed is left out of the decision, and said."""
    case = _Case(results)
    decided = case.decide()
    missing = _missing(results)
    if not missing:
        return decided
    return Verdict(
        ship=decided.ship,
        methods=decided.methods,
        headline=decided.headline,
        reasons=(*decided.reasons, missing),
    )


@dataclass(frozen=True)
class _Candidate:
    """A method one could ship with."""

    row: Summary
    gain: Estimate  # of recommendation over fix-m0, percent

    @property
    def name(self) -> str:
        return self.row.method

    @property
    def gains(self) -> bool:
        """Better than never updating, beyond noise."""
        return self.gain.interval is not None and self.gain.interval[0] > 0

    @property
    def loss(self) -> Estimate:
        """What old consumers lose (below zero) or win, percent."""
        return Estimate(self.row.unintended_pct or 0.0, self.row.unintended_interval)

    @property
    def bearable(self) -> bool:
        return self.loss.value >= -TOLERATED

    @property
    def surely_bearable(self) -> bool:
        return self.loss.interval is not None and self.loss.interval[0] >= -TOLERATED


class _Case:
    """The evidence, and what follows from it."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.rows = {row.method: row for row in results.summary}
        self.order = Order(results)
        gains = costs.gain_over_never_updating(results)
        self.candidates = [
            _Candidate(self.rows[method], gains[method])
            for method in self.order.totals
            if method != FIX_M0 and method in gains
        ]

    def decide(self) -> Verdict:
        missing = [name for name in (NO_BC, FIX_M0) if name not in self.order.totals]
        if missing or not self.candidates:
            return self._undecidable(missing)
        if all(candidate.gain.interval is None for candidate in self.candidates):
            return Verdict(
                ship=None,
                methods=(),
                headline="No verdict: nothing in these results says how sure they are.",
                reasons=(
                    Reason(
                        question="Why?",
                        figure="",
                        answer="Without bootstrap replicates a difference can't be told from "
                        "noise. Run the comparison again with this version of Backstay.",
                    ),
                ),
            )
        gaining = [candidate for candidate in self.candidates if candidate.gains]
        if not gaining:
            return self._no_gain()
        bearable = [candidate for candidate in gaining if candidate.bearable]
        if not bearable:
            return self._too_dear(gaining)
        proven = [candidate for candidate in bearable if candidate.surely_bearable]
        return self._ship(proven) if proven else self._unsure(bearable)

    def _undecidable(self, missing: Sequence[str]) -> Verdict:
        failed = {failure.method for failure in self.results.failures}
        broken = [name for name in missing if name in failed]
        if broken:
            answer = f"{listed(broken)} failed, and everything is measured against it."
            answer += " See what could not be computed, mend it, and run again."
        elif missing:
            answer = f"Run {listed(missing)} as well to learn what an update costs whom."
        else:
            answer = "No update method was judged on both sides: add one to the comparison."
        return Verdict(
            ship=None,
            methods=(),
            headline="No verdict: there is nothing to judge by.",
            reasons=(Reason(question="What is missing?", figure="", answer=answer),),
        )

    def _no_gain(self) -> Verdict:
        best = max(self.candidates, key=lambda candidate: candidate.gain.value)
        gain = best.gain
        worse = gain.interval is not None and gain.interval[1] < 0
        answer = (
            f"Against never updating ({FIX_M0}), the best is {_change(gain)} in Recall@50, with "
            f"{best.name}: {'a loss' if worse else 'not more than noise'}. Old consumers would "
            "take a risk for nothing."
        )
        reasons = [
            Reason(question="Is the update worth it?", figure=percent(gain.value), answer=answer),
            *self._without_compatibility(()),
            Reason(
                question="What to do instead?",
                figure="",
                answer="Keep the version that is out, and compare again with more data or a "
                "better model.",
            ),
        ]
        return Verdict(
            ship=False,
            methods=(),
            headline="Do not ship this update: no method recommends better than never updating, "
            "beyond noise.",
            reasons=tuple(reasons),
        )

    def _too_dear(self, gaining: Sequence[_Candidate]) -> Verdict:
        least = max(gaining, key=lambda candidate: candidate.loss.value)
        reasons = (
            self._worth_it([least]),
            Reason(
                question="What does it cost old consumers?",
                figure=percent(least.loss.value),
                answer=f"They may lose {TOLERATED:g} %. The least that a method which gains "
                f"anything costs them is {_change(least.loss)}, with {least.name}."
                + self._hardest_hit(least.name),
            ),
            *self._without_compatibility([least.name]),
            Reason(
                question="What to do instead?",
                figure="",
                answer="Search a greater weight of compatibility (backstay tune), or agree with "
                "the consumers on a date by which they train their models again.",
            ),
        )
        return Verdict(
            ship=False,
            methods=(),
            headline="Do not ship this update: every method that makes recommendation better "
            f"costs old consumers more than the {TOLERATED:g} % tolerated.",
            reasons=reasons,
        )

    def _unsure(self, bearable: Sequence[_Candidate]) -> Verdict:
        leading = self._leading(bearable)
        names = [candidate.name for candidate in leading]
        return Verdict(
            ship=None,
            methods=(),
            headline=f"Not yet: this run can't show that old consumers lose at most "
            f"{TOLERATED:g} % with {listed(names, 'or')}.",
            reasons=(
                self._worth_it(leading),
                self._cost(leading),
                *self._without_compatibility(names),
                Reason(
                    question="What would settle it?",
                    figure="",
                    answer="More consumer seeds (--seeds) or more users to judge by narrow the "
                    "range; a greater weight of compatibility (backstay tune) moves it.",
                ),
            ),
        )

    def _ship(self, proven: Sequence[_Candidate]) -> Verdict:
        leading = self._leading(proven)
        names = [candidate.name for candidate in leading]
        headline = f"Ship this update with {listed(names, 'or')}"
        headline += f": {APART}." if len(names) > 1 else "."
        return Verdict(
            ship=True,
            methods=tuple(names),
            headline=headline,
            reasons=(
                self._worth_it(leading),
                self._cost(leading),
                self._price(leading),
                *self._without_compatibility(names),
                *self._why_not(leading),
            ),
        )

    def _leading(self, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """The best sum and those not told apart from it, in the order of the table."""
        best = max(candidates, key=lambda candidate: self.order.totals[candidate.name])
        return [
            candidate
            for candidate in candidates
            if candidate is best or not self.order.told_apart(best.name, candidate.name)
        ]

    def _worth_it(self, leading: Sequence[_Candidate]) -> Reason:
        return Reason(
            question="Is the update worth it?",
            figure=_span(candidate.gain.value for candidate in leading),
            answer=f"Recall@50 against never updating ({FIX_M0}): "
            + _each((candidate.name, candidate.gain) for candidate in leading)
            + ".",
        )

    def _cost(self, leading: Sequence[_Candidate]) -> Reason:
        within = "within" if all(c.surely_bearable for c in leading) else "against"
        return Reason(
            question="What does it cost old consumers?",
            figure=_span(candidate.loss.value for candidate in leading),
            answer="Their ROC-AUC: "
            + _each((candidate.name, candidate.loss) for candidate in leading)
            + f"; {within} the {TOLERATED:g} % tolerated."
            + "".join(self._hardest_hit(c.name, named=len(leading) > 1) for c in leading),
        )

    def _price(self, leading: Sequence[_Candidate]) -> Reason:
        prices = [
            (c.name, Estimate(c.row.intended_pct or 0.0, c.row.intended_interval)) for c in leading
        ]
        return Reason(
            question="What does compatibility cost recommendation?",
            figure=_span(price.value for _, price in prices),
            answer=f"Recall@50 against a model that owes nobody anything ({NO_BC}): "
            + _each(prices)
            + ".",
        )

    def _without_compatibility(self, chosen: Sequence[str]) -> list[Reason]:
        free = self.rows.get(NO_BC)
        if NO_BC in chosen or free is None or free.unintended_pct is None:
            return []
        cost = Estimate(free.unintended_pct, free.unintended_interval)
        return [
            Reason(
                question="And without compatibility?",
                figure=percent(cost.value),
                answer=f"Shipping without it ({NO_BC}) changes what old consumers deliver by "
                f"{_change(cost)}." + self._hardest_hit(NO_BC),
            )
        ]

    def _why_not(self, leading: Sequence[_Candidate]) -> list[Reason]:
        """Methods with a better sum that are not to be shipped with."""
        best = max(self.order.totals[candidate.name] for candidate in leading)
        passed = [
            candidate
            for candidate in self.candidates
            if candidate not in leading and self.order.totals[candidate.name] > best
        ]
        if not passed:
            return []
        clauses = [
            f"{c.name} may cost old consumers too much ({_change(c.loss)})"
            if c.gains
            else f"{c.name} gains nothing beyond noise"
            for c in passed
        ]
        names = listed([candidate.name for candidate in passed])
        return [
            Reason(
                question=f"Why not {names}?",
                figure=_span(self.order.totals[candidate.name] for candidate in passed),
                answer=f"The sum looks better, but {listed(clauses)}.",
            )
        ]

    def _hardest_hit(self, method: str, *, named: bool = False) -> str:
        """Which consumer loses most, where one loses more than all do: a sentence to append."""
        found = costs.by_consumer(self.results).get(method, {})
        if not found:
            return ""
        task = min(found, key=lambda name: found[name])
        mean = self.rows[method].unintended_pct
        if found[task] >= 0 or percent(found[task]) in {percent(0.0), percent(mean)}:
            return ""
        whose = f" with {method}" if named else ""
        return f" Hardest hit{whose}: {plain(task)}, {percent(found[task])}."


def _missing(results: Results) -> Reason | None:
    """What failed, and who is therefore not judged."""
    if not results.failures:
        return None
    count = len(results.failures)
    what = "1 cell failed" if count == 1 else f"{count} cells failed"
    gone = [row.method for row in results.summary if row.total_pct is None]
    answer = f"{what}; this is judged on what is left."
    if gone:
        answer += f" Not judged: {listed(gone)}."
    return Reason(question="What is missing?", figure="", answer=answer)


def _change(estimate: Estimate) -> str:
    text = percent(estimate.value)
    sure = between(estimate.interval)
    return f"{text} ({sure})" if sure else text


def _each(estimates: Iterable[tuple[str, Estimate]]) -> str:
    pairs = list(estimates)
    if len(pairs) == 1:
        return _change(pairs[0][1])
    return ", ".join(f"{_change(estimate)} with {name}" for name, estimate in pairs)


def _span(values: Iterable[float]) -> str:
    """One figure, or the least and the greatest of several."""
    ends = sorted(values)
    texts = dict.fromkeys((signed(ends[0]), signed(ends[-1])))
    return f"{' to '.join(texts)} %"
