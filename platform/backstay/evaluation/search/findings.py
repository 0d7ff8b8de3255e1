"""The findings of a search: its trials, the choice, and its costs on later windows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from backstay.evaluation.analysis.significance import Pair, pairs
from backstay.evaluation.analysis.summary import pareto_front
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.comparison.results import Results, Summary
from backstay.evaluation.search.choice import Rule, choose
from backstay.evaluation.search.settings import REFERENCES, TrialSettings
from backstay.evaluation.search.trial import BASELINES

State = Literal["finished", "stopped", "failed"]
"""stopped: ended early, because its sum on the first versions was far below a usual weight's."""

Verdict = Literal["holds", "worse", "over-tolerance", "unmeasured"]
"""The result of the choice on the judged windows.

over-tolerance: consumers lose more than tolerated over the whole 95 % interval. worse: its sum is
significantly below a usual weight's. holds: neither.
"""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial, and its costs on the windows that the search chose by."""

    name: str
    settings: TrialSettings
    state: State
    reason: str | None  # of a trial that failed or was stopped
    versions: int  # how many it has judged
    costs: Summary | None  # of a finished trial
    on_front: bool  # no other finished trial is better on both sides
    reference: bool  # one of the usual weights


@dataclass(frozen=True, kw_only=True)
class SearchFindings:
    """The whole answer of a search."""

    method: str
    rule: Rule
    tolerance: float  # percent that consumers may lose
    chosen: str | None  # the name of a trial; None if none has both figures
    within_tolerance: bool  # whether its consumers surely lose no more, on the selection windows
    selected_on: tuple[int, ...]  # versions whose windows the search chose by
    judged_on: tuple[int, ...]  # later versions, whose windows the search does not read
    trials: tuple[Trial, ...]  # by rising weight
    selection: Results  # baselines and finished trials on the selection windows
    judgement: Results | None  # baselines, the choice and the usual weights on the judged windows

    @property
    def best(self) -> Trial | None:
        """The trial that was chosen."""
        return next((trial for trial in self.trials if trial.name == self.chosen), None)

    @property
    def honest(self) -> Summary | None:
        """The costs of the choice on the judged windows."""
        rows = self.judgement.summary if self.judgement else ()
        return next((row for row in rows if row.method == self.chosen), None)

    @cached_property
    def against(self) -> tuple[Pair, ...]:
        """The choice's sum minus each usual weight's, on the judged windows."""
        if self.judgement is None or self.chosen is None:
            return ()
        references = [trial.name for trial in self.trials if trial.reference]
        return against_references(self.judgement, self.chosen, references)

    @property
    def verdict(self) -> Verdict:
        """Whether the choice holds on the judged windows."""
        return verdict_on(self.honest, self.against, tolerance=self.tolerance)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A trial as the search leaves it: how it ended, before costs are compared."""

    settings: TrialSettings
    state: State
    reason: str | None = None
    versions: int = 0


def select(
    attempts: Mapping[str, Attempt],
    selection: Results,
    *,
    rule: Rule,
    tolerance: float,
) -> tuple[tuple[Trial, ...], Summary | None, bool]:
    """The trials with their costs, the row that the rule chooses, and whether it is within limits.

    `attempts` are by name, in the order of their weights. The finished ones are methods of
    `selection`.
    """
    rows = {row.method: row for row in selection.summary if row.method not in BASELINES}
    front = pareto_front(tuple(rows.values()))
    trials = tuple(
        Trial(
            name=name,
            settings=attempt.settings,
            state=attempt.state,
            reason=attempt.reason,
            versions=attempt.versions,
            costs=rows.get(name),
            on_front=name in front,
            reference=attempt.settings in REFERENCES,
        )
        for name, attempt in attempts.items()
    )
    return trials, *choose(tuple(rows.values()), rule=rule, tolerance=tolerance)


def against_references(
    judgement: Results, chosen: str, references: Sequence[str]
) -> tuple[Pair, ...]:
    """The sum of the choice minus that of each usual weight, with paired intervals."""
    found = []
    for pair in pairs(judgement):
        if pair.figure != "total_pct" or chosen not in (pair.first, pair.second):
            continue
        turned = pair if pair.first == chosen else _turned(pair)
        if turned.second in references:
            found.append(turned)
    return tuple(found)


def _turned(pair: Pair) -> Pair:
    low, high = pair.interval
    return Pair(
        first=pair.second,
        second=pair.first,
        figure=pair.figure,
        difference=-pair.difference,
        interval=(-high, -low),
    )


def verdict_on(
    honest: Summary | None,
    against: Sequence[Pair],
    *,
    tolerance: float,
) -> Verdict:
    """The verdict by the figures of the choice on the judged windows."""
    if honest is None or honest.total_pct is None or honest.unintended_pct is None:
        return "unmeasured"
    interval = honest.unintended_interval
    highest = interval[1] if interval else honest.unintended_pct
    if highest < -tolerance:
        return "over-tolerance"
    if any(pair.significant and pair.difference < 0 for pair in against):
        return "worse"
    return "holds"


def recipe(findings: SearchFindings, plan: ComparePlan) -> dict[str, dict[str, object]]:
    """The choice as options of `compare` and `update`: the contents of best.yaml."""
    best = findings.best
    if best is None:
        return {}
    options: dict[str, object] = {"profile": plan.profile, **best.settings.options()}
    return {
        "compare": {"methods": [*BASELINES, findings.method], **options},
        "update": {"method": findings.method, **options},
    }
