"""How a version is learned, and the two recipes that people choose from."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from backstay.errors import UsageError

Recipe = Literal["fast", "paper"]
Sampling = Literal["auto", "full", "neighbours"]

FULL_NODES = 30_000
"""Nodes up to which `auto` runs the whole graph in every step."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and how fast to learn; the defaults are the paper's recipe."""

    epochs: int = 500  # an epoch draws as many edges as the step has
    most_steps: int | None = None  # optimiser steps after which a fit ends, however large the data
    warm_epochs: int | None = None  # of a version that starts from the one before; None: as many
    extension_epochs: int | None = None  # of a version built onto the one before; None: as many
    batch_size: int = 2048  # triples per optimiser step on a whole graph, over all workers
    negatives: int = 0  # drawn for all triples of a graph together; 0: one for each triple
    learning_rate: float = 1e-3  # of Adam, for the model and the map alike
    warm_rate: float | None = None  # the same for a version that starts from the one before
    map_rate: float | None = None  # the same for a map that is fitted afterwards
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: a short rise, a long fall
    regularisation: float = 1e-2  # weight of ½(‖u‖² + ‖i⁺‖² + ‖i⁻‖²) per triple
    weight: float = 16.0  # λ of the alignment loss, for methods that align jointly
    average: float = 0.0  # decay per step of the weights' running mean that is judged; 0: none
    solve_maps: bool = False  # maps of joint methods are solved for once the model is finished
    warm_start: bool = False  # begin with the weights of the version before, where there is one
    table_scale: float = 1.0  # of the input table at the start, beside the architecture's own
    output_scale: float = 1.0  # of the last batch norm's weight at the start
    sampling: Sampling = "auto"  # whole graphs, or sampled neighbours; auto: by the size
    fan_out: int = 5  # neighbours a node hears per round, where they are sampled
    groups: int = 4  # graphs in a batch, where neighbours are sampled
    group_size: int = 2048  # triples of each; such a batch has groups · group_size
    evaluate_every: int = 10  # epochs between two looks at the score
    settle: float = 0.1  # share of the epochs in which a jointly aligned state is not yet kept
    keep: Literal["best", "last"] = "best"  # which evaluated state becomes the version
    seed: int = 42

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "warm_epochs",
            "extension_epochs",
            "most_steps",
            "batch_size",
            "evaluate_every",
            "fan_out",
            "groups",
            "group_size",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, found {value}.")
        for name in (
            "negatives",
            "learning_rate",
            "warm_rate",
            "map_rate",
            "regularisation",
            "weight",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} must not be negative, found {value}.")
        if not 0 <= self.average < 1:
            raise UsageError(f"average must be a decay in [0, 1), found {self.average}.")

    def samples(self, n_nodes: int) -> bool:
        """Whether a snapshot of so many nodes is learned from sampled neighbours."""
        return self.sampling == "neighbours" or (self.sampling == "auto" and n_nodes > FULL_NODES)

    def triples(self, *, sampled: bool) -> int:
        """Triples per optimiser step, over all workers."""
        return self.groups * self.group_size if sampled else self.batch_size

    def steps(self, edges: int, *, sampled: bool) -> tuple[int, int]:
        """Optimiser steps of an epoch of so many edges, and of the whole fit."""
        epoch = max(1, math.ceil(edges / self.triples(sampled=sampled)))
        return epoch, min(self.epochs * epoch, self.most_steps or self.epochs * epoch)

    def lasting(self, epochs: int | None) -> "FitConfig":
        """The same for another number of epochs, whatever the fit begins with."""
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
        """The same for another number of epochs of a fresh start, and others in proportion."""
        if epochs is None:
            return self

        def share(others: int | None) -> int | None:
            return others and math.ceil(others * epochs / self.epochs)

        return replace(
            self.lasting(epochs),
            warm_epochs=share(self.warm_epochs),
            extension_epochs=share(self.extension_epochs),
        )

    def warm(self) -> "FitConfig":
        """What holds for a version that starts from the one before."""
        return replace(
            self,
            epochs=self.warm_epochs or self.epochs,
            learning_rate=self.learning_rate if self.warm_rate is None else self.warm_rate,
            table_scale=1.0,
            output_scale=1.0,
        )

    def extending(self) -> "FitConfig":
        """What holds for a version that is built onto the one before."""
        epochs = self.extension_epochs or self.epochs
        most = self.most_steps and math.ceil(self.most_steps * epochs / self.epochs)
        return replace(self, epochs=epochs, most_steps=most)

    def afterwards(self, epochs: int | None) -> "FitConfig":
        """What holds for a map that is fitted to a finished model."""
        return replace(
            self.lasting(epochs),
            learning_rate=self.learning_rate if self.map_rate is None else self.map_rate,
            keep="best",
        )

    def rate(self, progress: float) -> float:
        """The learning rate when a share `progress`, in [0, 1), of the steps is done."""
        if self.schedule == "constant":
            return self.learning_rate
        if progress < RISE:
            return self.learning_rate * (FLOOR + (1 - FLOOR) * progress / RISE)
        fall = (progress - RISE) / (1 - RISE)
        return self.learning_rate * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * fall)) / 2)


RISE, FLOOR = 0.1, 0.05
"""Of the cosine schedule: the share of steps that it rises, and where it starts and ends."""

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
"""Learned with less noise per step, and so with larger steps and fewer of them.

The ranking loss is the paper's in expectation. λ is smaller, since a version that starts from the
one before is aligned from its first step on and only has to stay so.
"""

RECIPES: dict[Recipe, FitConfig] = {"fast": FAST, "paper": PAPER}
