"""What the cells of a comparison read and return."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from backstay.compat.maps import EntityMaps, chain_entity_maps
from backstay.datasets.dataset import Attributes
from backstay.datasets.timeline import Step
from backstay.evaluation.comparison.results import MapFigures, Record
from backstay.evaluation.metrics.alignment import Floats
from backstay.models.trained import TrainedModel


@dataclass(frozen=True)
class Data:
    """The data set that every cell reads."""

    steps: tuple[Step, ...]
    attributes: Attributes


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One version fitted by one method."""

    version: int
    model: TrainedModel
    backward: tuple[EntityMaps, ...]  # B_k, …, B_1, newest first; () without maps
    curves: dict[str, list[dict[str, float]]]  # per phase: one entry per evaluation
    seconds: float
    peak_rss_mb: float

    def maps_to(self, target: int) -> EntityMaps:
        """The chain from this version to an older one."""
        return chain_entity_maps(self.backward[: self.version - target][::-1])


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The figures of one version by one method, on its own task and on older consumers."""

    version: int
    records: tuple[Record, ...]
    maps: tuple[MapFigures, ...] = ()
    recall: Floats = field(default_factory=lambda: np.zeros(0))  # (B,) replicates of Recall@50
    aucs: Mapping[str, Floats] = field(default_factory=dict)  # per task (B,), mean over seeds
