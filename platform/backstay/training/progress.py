"""What a fit tells while it runs."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a fit is."""

    step: int  # optimiser steps done
    steps: int  # of how many
    epoch: float  # epochs done
    epochs: float  # of how many
    loss: float  # mean over the steps since the last evaluation
    alignment: float  # of it, the alignment, before its weight
    rate: float  # triples per second, evaluations aside
    seconds: float  # spent so far, earlier runs of the same fit included
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
"""Called with the name of the phase."""
