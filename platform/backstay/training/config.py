"""The configuration of a fit, and the two recipes that users choose from."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from backstay.checks import AtLeastOne, NotNegative, check_fields

Recipe = Literal["fast", "paper"]
Sampling = Literal["auto", "full", "neighbours"]

FULL_NODES = 30_000
"""The most nodes for which `auto` runs the whole graph in every step."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and how fast to train; the defaults are the paper's recipe."""

    epochs: AtLeastOne = 500  # an epoch draws as many edges as the step has
    most_steps: AtLeastOne | None = None  # the most optimiser steps of a fit; None: no limit
    warm_epochs: AtLeastOne | None = None  # when starting from the version before; None: `epochs`
    extension_epochs: AtLeastOne | None = None  # when extending the version before; None: `epochs`
    batch_size: AtLeastOne = 2048  # triples per optimiser step on a whole graph, over all workers
    negatives: Annotated[int, Field(ge=0)] = 0  # shared by a graph's triples; 0: one per triple
    learning_rate: NotNegative = 1e-3  # of Adam, for the model and the map
    warm_rate: NotNegative | None = None  # the same when starting from the version before
    map_rate: NotNegative | None = None  # the same for a map that is fitted afterwards
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: a short rise, a long fall
    regularisation: NotNegative = 1e-2  # weight of ½(‖u‖² + ‖i⁺‖² + ‖i⁻‖²) per triple
    weight: NotNegative = 16.0  # λ of the alignment loss, for joint methods
    average: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    """Decay per step of the weights' running mean, which is evaluated instead; 0: no mean."""
    solve_maps: bool = False  # replace a joint method's map by least squares at the end
    warm_start: bool = False  # start from the weights of the version before, where there is one
    table_scale: float = 1.0  # factor of the input table's initial values
    output_scale: float = 1.0  # of the last batch norm's weight at the start
    sampling: Sampling = "auto"  # whole graphs or sampled neighbours; auto: by the size
    fan_out: AtLeastOne = 5  # neighbours sampled per node and layer
    groups: AtLeastOne = 4  # sampled graphs per batch
    group_size: AtLeastOne = 2048  # triples per sampled graph
    evaluate_every: AtLeastOne = 10  # epochs between two evaluations
    selection_starts_after: float = 0.1  # share of a joint fit before which no state is selected
    keep: Literal["best", "last"] = "best"  # which evaluated state becomes the version
    seed: int = 42

    def __post_init__(self) -> None:
        check_fields(self)

    def samples(self, n_nodes: int) -> bool:
        """Whether a snapshot of `n_nodes` nodes is trained on sampled neighbours."""
        return self.sampling == "neighbours" or (self.sampling == "auto" and n_nodes > FULL_NODES)

    def triples(self, *, sampled: bool) -> int:
        """Triples per optimiser step, over all workers."""
        return self.groups * self.group_size if sampled else self.batch_size

    def steps(self, edges: int, *, sampled: bool) -> tuple[int, int]:
        """Optimiser steps of an epoch of `edges` edges, and of the whole fit."""
        epoch = max(1, math.ceil(edges / self.triples(sampled=sampled)))
        return epoch, min(self.epochs * epoch, self.most_steps or self.epochs * epoch)

    def lasting(self, epochs: int | None) -> "FitConfig":
        """The same with `epochs` epochs, however the fit starts."""
        if epochs is None:
            return self
        return replace(
            self,
            epochs=epochs,
            warm_epochs=None,
            extension_epochs=None,
            evaluate_every=min(self.evaluate_every, epochs),
        )

    def scaled(self, epochs: int | None) -> "FitConfig":
        """The same with `epochs` epochs when training from scratch; other phases scale with it."""
        if epochs is None:
            return self

        def share(others: int | None) -> int | None:
            return others and math.ceil(others * epochs / self.epochs)

        return replace(
            self.lasting(epochs),
            warm_epochs=share(self.warm_epochs),
            extension_epochs=share(self.extension_epochs),
        )

    def at_rate(self, factor: float | None) -> "FitConfig":
        """The same with all learning rates multiplied by `factor`."""
        if factor is None:
            return self
        return replace(
            self,
            learning_rate=self.learning_rate * factor,
            warm_rate=self.warm_rate and self.warm_rate * factor,
            map_rate=self.map_rate and self.map_rate * factor,
        )

    def warm(self) -> "FitConfig":
        """The configuration of a version that starts from the weights of the one before."""
        return replace(
            self,
            epochs=self.warm_epochs or self.epochs,
            learning_rate=self.learning_rate if self.warm_rate is None else self.warm_rate,
            table_scale=1.0,
            output_scale=1.0,
        )

    def extending(self) -> "FitConfig":
        """The configuration of a version that extends the one before."""
        epochs = self.extension_epochs or self.epochs
        most = self.most_steps and math.ceil(self.most_steps * epochs / self.epochs)
        return replace(self, epochs=epochs, most_steps=most)

    def afterwards(self, epochs: int | None) -> "FitConfig":
        """The configuration of a map that is fitted to a finished model."""
        return replace(
            self.lasting(epochs),
            learning_rate=self.learning_rate if self.map_rate is None else self.map_rate,
            keep="best",
        )

    def rate(self, progress: float) -> float:
        """The learning rate after a share `progress`, in [0, 1), of the steps."""
        if self.schedule == "constant":
            return self.learning_rate
        if progress < RISE:
            return self.learning_rate * (FLOOR + (1 - FLOOR) * progress / RISE)
        fall = (progress - RISE) / (1 - RISE)
        return self.learning_rate * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * fall)) / 2)


RISE, FLOOR = 0.1, 0.05
"""Cosine schedule: the share of steps in which the rate rises, and its start and end value."""

PAPER = FitConfig(sampling="full")
"""The published settings."""

FAST = FitConfig(
    epochs=10,
    most_steps=1000,
    warm_epochs=6,
    extension_epochs=20,
    batch_size=1024,
    negatives=512,
    learning_rate=0.06,
    warm_rate=0.02,
    map_rate=0.01,
    schedule="cosine",
    weight=1.0,
    average=0.98,
    solve_maps=True,
    warm_start=True,
    table_scale=0.3,
    output_scale=0.25,
    evaluate_every=1,
    keep="last",
)
"""Fewer and larger steps than the paper's, with less noise per step.

The ranking loss equals the paper's in expectation. λ is smaller: a version that starts from the one
before is aligned from its first step on, and only has to stay aligned.
"""

RECIPES: dict[Recipe, FitConfig] = {"fast": FAST, "paper": PAPER}
