"""The settings that a search varies."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from backstay.errors import UsageError
from backstay.evaluation.comparison.plan import ComparePlan, widening

Parameter = Literal["weight", "rate", "epochs", "new-dims"]

WEIGHTS = (0.05, 64.0)
"""Range of λ in a search, on a logarithmic scale. The paper uses 16, the fast profile 1."""
RATES = (0.25, 4.0)
"""Range of the factor of all learning rates, on a logarithmic scale."""
EPOCHS = (0.5, 2.0)
"""Range of epochs, as factors of the profile's, on a logarithmic scale."""
NEW_DIMS = (0, 16, 32, 64)
"""Dimensions by which each version may be wider than the one before."""


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """One combination of settings; None means the profile's value."""

    weight: float  # λ of the alignment loss
    rate: float | None = None  # factor of all learning rates
    epochs: int | None = None  # from scratch; other phases scale with it
    new_dims: int | None = None  # by which each version is wider than the one before

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise UsageError(f"a weight must be a finite number from 0 on; found {self.weight}.")

    @property
    def name(self) -> str:
        """A short text for tables and pictures; different settings may share it."""
        parts = [f"λ = {self.weight:.3g}"]
        if self.rate is not None:
            parts.append(f"rate × {self.rate:.2g}")
        if self.epochs is not None:
            parts.append(f"{self.epochs} epochs")
        if self.new_dims is not None:
            parts.append(f"+{self.new_dims} dimensions")
        return ", ".join(parts)

    @property
    def folder(self) -> str:
        """A name for the folder of the trial; different settings have different ones."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def plan(self, plan: ComparePlan, method: str) -> ComparePlan:
        """The plan of a comparison that has this method alone, with these settings."""
        fit = replace(plan.fit.scaled(self.epochs).at_rate(self.rate), weight=self.weight)
        dims = plan.dims if self.new_dims is None else widening(plan.dims, self.new_dims)
        return replace(plan, methods=(method,), fit=fit, dims=dims)

    def options(self) -> dict[str, float | int]:
        """The settings as options of `compare` and `update`, without those left to the profile."""
        named = ((part.name.replace("_", "-"), getattr(self, part.name)) for part in fields(self))
        return {name: value for name, value in named if value is not None}


REFERENCES = (TrialSettings(weight=1.0), TrialSettings(weight=16.0))
"""Trials of every search: the two usual weights."""


def distinct_names(trials: list[TrialSettings]) -> dict[TrialSettings, str]:
    """A name for each trial; names that several trials share get a number."""
    names: dict[TrialSettings, str] = {}
    for settings in trials:
        same = sum(other.name == settings.name for other in names)
        names[settings] = f"{settings.name} ({same + 1})" if same else settings.name
    return names
