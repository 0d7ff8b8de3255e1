"""The request to fit one version: everything that the fit reads, as arrays and plain values."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from backstay.compat.methods import Method
from backstay.datasets.dataset import Attributes
from backstay.datasets.timeline import Step
from backstay.models.trained import TrainedModel
from backstay.training.config import FitConfig


@dataclass(frozen=True)
class Predecessor:
    """The parts of version k - 1 and older ones that a fit of version k reads."""

    model: TrainedModel
    matrices: tuple[npt.NDArray[np.float32], ...]
    """B_{k-1}, …, B_1: newest first, up to the first that is not linear or not there."""
    older: tuple[TrainedModel, ...] = ()
    """M_{k-2}, …, M_0: newest first, up to the first retired one; () unless the plan reads them."""


@dataclass(frozen=True)
class VersionPlan:
    """How a version is fitted."""

    method: Method
    dim: int  # D_k
    layers: int
    fit: FitConfig = field(default_factory=FitConfig)
    map_epochs: int | None = None  # of a post-hoc map; None: as many as the model's
    tuning_epochs: int | None = None  # of a model that is trained on; None: as many as of others
    architecture: str = "pinsage"

    @property
    def solves_for_all(self) -> bool:
        """Whether B_k is solved against all older versions, which requires their models."""
        method = self.method
        linear = method.joint and method.map == "linear"
        return linear and method.alignment == "multi" and self.fit.solve_maps


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """One version to fit; processes can share it."""

    step: Step
    attributes: Attributes
    plan: VersionPlan
    previous: Predecessor | None = None  # None: version 0, which every method fits alike
    fitted: TrainedModel | None = None  # a finished model that only lacks its post-hoc map
