"""The configuration of a search."""

from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field

from backstay.checks import AtLeastOne, NotNegative, check_fields
from backstay.compat.methods import find_method
from backstay.errors import UsageError
from backstay.evaluation.comparison.plan import ComparePlan
from backstay.evaluation.search.choice import TOLERANCE, Rule
from backstay.evaluation.search.settings import Parameter, TrialSettings

TRIALS = 10


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """One search, as the user asks for it."""

    plan: ComparePlan  # of the whole timeline; its methods don't matter
    method: str = "bc-aligner"
    weights: tuple[float, ...] = ()  # try these instead of searching
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1)] = ("weight",)
    trials: AtLeastOne | None = None  # that the search chooses; None: 10, or what fits `minutes`
    minutes: Annotated[float, Field(gt=0)] | None = None  # start no trial after these
    judged: AtLeastOne = 1  # last windows that the search does not see
    rule: Rule = "least-intended-cost"
    tolerance: NotNegative = TOLERANCE  # percent of ROC-AUC that consumers may lose
    workers: AtLeastOne | None = None  # trials at the same time; None: one per CPU

    def __post_init__(self) -> None:
        check_fields(self)
        if not find_method(self.method).joint:
            raise UsageError(
                f"--method: expected a joint method, found {self.method}, which has no alignment "
                "loss."
            )
        if self.weights and (self.trials or self.minutes):
            raise UsageError("expected either --weights, or --trials and --minutes; leave one out.")
        if self.weights and self.parameters != ("weight",):
            raise UsageError("--weights tries values of λ only; leave out --search or --weights.")
        if len(self.plan.dims) < self.judged + 2:
            raise UsageError(
                f"--judge-on {self.judged} needs at least {self.judged + 2} versions: version 0, "
                "one whose window the search chooses by, and the judged ones; found "
                f"{len(self.plan.dims)}. Give more --dims, or a smaller --judge-on."
            )
        for weight in self.weights:
            TrialSettings(weight=weight)

    @property
    def cut(self) -> int:
        """The last version whose window the search sees."""
        return len(self.plan.dims) - 1 - self.judged

    @property
    def searched(self) -> int | None:
        """How many trials the sampler chooses; None: as many as fit the time."""
        if self.weights:
            return 0
        return self.trials or (None if self.minutes else TRIALS)

    def identity(self) -> dict[str, object]:
        """What makes two searches the same one, so that the second goes on with the first."""
        parts = asdict(self)
        del parts["workers"]
        return parts
