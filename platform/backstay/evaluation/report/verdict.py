"""The decision in words: a headline, and a question with its answer for each reason."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from backstay.evaluation.analysis.codes import (
    TOLERATED,
    Cause,
    Decision,
    MethodFigure,
    Reason,
    ReasonCode,
)
from backstay.evaluation.analysis.significance import FIX_M0, NO_BC
from backstay.evaluation.report.words import between, listed, percent, plain, signed


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One reason in words."""

    code: ReasonCode
    question: str
    figure: str  # the answer at a glance; empty if the reason has no figures
    answer: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A decision in words."""

    decision: Decision
    headline: str
    reasons: tuple[Answer, ...]


def verdict(decision: Decision) -> Verdict:
    """Put a decision into words."""
    return Verdict(
        decision=decision,
        headline=HEADLINES[decision.cause](decision.leading),
        reasons=tuple(map(_answer, decision.reasons)),
    )


def _answer(reason: Reason) -> Answer:
    question, answer = SENTENCES[reason.code]
    names = [figure.method for figure in reason.figures]
    return Answer(
        code=reason.code,
        question=question.format(methods=listed(names) if names else ""),
        figure=_span(reason.figures),
        answer=answer(reason),
    )


def _ship(names: Sequence[str]) -> str:
    several = ": the run shows no significant difference between them" if len(names) > 1 else ""
    return f"Ship this update with {listed(names, 'or')}{several}."


def _uncertain(names: Sequence[str]) -> str:
    return (
        f"Not yet: this run does not show that old consumers lose at most {TOLERATED:g} % with "
        f"{listed(names, 'or')}."
    )


HEADLINES: Mapping[Cause, Callable[[Sequence[str]], str]] = {
    "proven": _ship,
    "no-gain": lambda _: (
        "Do not ship this update: no method recommends significantly better than never updating."
    ),
    "too-costly": lambda _: (
        "Do not ship this update: every method that improves recommendation "
        f"costs old consumers more than the {TOLERATED:g} % tolerated."
    ),
    "loss-uncertain": _uncertain,
    "no-intervals": lambda _: "No verdict: these results have no intervals.",
    "nothing-to-compare": lambda _: "No verdict: the results lack a method to compare with.",
}
"""Headlines by cause, made from the names of the leading methods."""


def _best_gain(reason: Reason) -> str:
    (best,) = reason.figures
    what = "a loss" if reason.code == "recommends-worse" else "not a significant gain"
    return (
        f"The best change of Recall@50 against never updating ({FIX_M0}) is {_change(best)}, with "
        f"{best.method}: {what}. Old consumers would take a risk without any benefit."
    )


def _loss(reason: Reason) -> str:
    relation = "within" if reason.code == "loss-tolerated" else "against"
    return (
        f"Change of their ROC-AUC: {_each(reason.figures)}; {relation} the {TOLERATED:g} % "
        f"tolerated.{_hardest_hit(reason)}"
    )


def _least_loss(reason: Reason) -> str:
    (least,) = reason.figures
    return (
        f"They may lose {TOLERATED:g} %. Among the methods that improve recommendation, "
        f"{least.method} costs them least: {_change(least)}.{_hardest_hit(reason)}"
    )


def _without_compatibility(reason: Reason) -> str:
    return (
        f"Shipping without compatibility ({NO_BC}) changes old consumers' ROC-AUC by "
        f"{_each(reason.figures)}.{_hardest_hit(reason)}"
    )


def _rejected(reason: Reason) -> str:
    losses = {figure.method: figure for figure in reason.losses}
    clauses = [
        f"{figure.method} may cost old consumers too much ({_change(losses[figure.method])})"
        if figure.method in losses
        else f"{figure.method} does not improve recommendation significantly"
        for figure in reason.figures
    ]
    return f"The sum is better, but {listed(clauses)}."


def _failed_cells(reason: Reason) -> str:
    what = "1 cell failed" if reason.count == 1 else f"{reason.count} cells failed"
    left_out = f" Not judged: {listed(reason.methods)}." if reason.methods else ""
    return f"{what}; the verdict rests on the others.{left_out}"


def _advice(text: str) -> Callable[[Reason], str]:
    return lambda _: text


_GAIN = "Is the update worth it?"
_LOSS = "What does it cost old consumers?"
_INSTEAD = "What to do instead?"
_MISSING = "What is missing?"

SENTENCES: Mapping[ReasonCode, tuple[str, Callable[[Reason], str]]] = {
    "gain": (
        _GAIN,
        lambda reason: f"Recall@50 against never updating ({FIX_M0}): {_each(reason.figures)}.",
    ),
    "gain-not-significant": (_GAIN, _best_gain),
    "recommends-worse": (_GAIN, _best_gain),
    "loss-tolerated": (_LOSS, _loss),
    "loss-uncertain": (_LOSS, _loss),
    "loss-too-great": (_LOSS, _least_loss),
    "compatibility-price": (
        "What does compatibility cost recommendation?",
        lambda reason: (
            f"Recall@50 against an update without compatibility ({NO_BC}): {_each(reason.figures)}."
        ),
    ),
    "without-compatibility": ("And without compatibility?", _without_compatibility),
    "better-sum-rejected": ("Why not {methods}?", _rejected),
    "baseline-failed": (
        _MISSING,
        lambda reason: (
            f"Cells of {listed(reason.methods)} failed, and all figures are relative to "
            "it. Find the cause under the failed cells, fix it, and run again."
        ),
    ),
    "baseline-missing": (
        _MISSING,
        lambda reason: (
            f"All figures are relative to {FIX_M0} and {NO_BC}. Run again with "
            f"{listed(reason.methods)} among --methods."
        ),
    ),
    "no-update-method": (
        _MISSING,
        _advice(
            "No update method has figures for recommendation and for old consumers. Add one to "
            "--methods."
        ),
    ),
    "no-replicates": (
        "Why?",
        _advice(
            "Without bootstrap replicates a difference can't be distinguished from noise. Run the "
            "comparison again with this version of Backstay, or on more users."
        ),
    ),
    "cells-failed": (_MISSING, _failed_cells),
    "keep-version": (
        _INSTEAD,
        _advice("Keep the published version, and compare again with more data or a better model."),
    ),
    "weigh-compatibility": (
        _INSTEAD,
        _advice(
            "Search for a greater weight of compatibility (backstay tune), or agree with the "
            "consumers on a date by which they retrain their models."
        ),
    ),
    "measure-more": (
        "What would decide it?",
        _advice(
            "More consumer seeds (--seeds) or more users to judge by narrow the interval; a "
            "greater weight of compatibility (backstay tune) moves it."
        ),
    ),
}
"""A question, and how its answer is made, for every reason."""


def _hardest_hit(reason: Reason) -> str:
    """The consumers that lose most: a sentence per method, to append."""
    return "".join(
        f" Hardest hit{f' with {hit.method}' if len(reason.figures) > 1 else ''}: "
        f"{plain(hit.task)}, {percent(hit.value)}."
        for hit in reason.hardest_hit
    )


def _change(figure: MethodFigure) -> str:
    text, bounds = percent(figure.value), between(figure.interval)
    return f"{text} ({bounds})" if bounds else text


def _each(figures: Sequence[MethodFigure]) -> str:
    if len(figures) == 1:
        return _change(figures[0])
    return ", ".join(f"{_change(figure)} with {figure.method}" for figure in figures)


def _span(figures: Iterable[MethodFigure]) -> str:
    """One figure, or the least and the greatest of several; empty without any."""
    ends = sorted(figure.value for figure in figures)
    if not ends:
        return ""
    texts = dict.fromkeys((signed(ends[0]), signed(ends[-1])))
    return f"{' to '.join(texts)} %"
