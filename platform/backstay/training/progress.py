"""The progress that a fit reports while it runs."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a fit is."""

    step: int  # optimiser steps done
    steps: int  # optimiser steps in all
    epoch: float  # epochs done
    epochs: float  # epochs in all
    loss: float  # mean over the steps since the last evaluation
    alignment: float  # the alignment loss in it, before its weight
    rate: float  # triples per second, evaluations excluded
    seconds: float  # spent so far, including earlier runs of the same fit
    remaining: float  # seconds still to go, at the pace so far
    score: float | None  # of this evaluation; None between evaluations

    def __str__(self) -> str:
        score = "" if self.score is None else f", score {self.score:.4f}"
        return (
            f"epoch {self.epoch:.3g} of {self.epochs:.3g}: loss {self.loss:.4f}, "
            f"alignment {self.alignment:.4f}{score}, {self.rate:,.0f} triples/s, "
            f"{self.seconds:,.0f} s, {self.remaining:,.0f} s left"
        )


Watch = Callable[[str, Progress], None]
"""Called with the name of the phase and its progress."""
