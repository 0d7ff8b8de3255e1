"""The cells of a comparison: fit a version, train consumers, judge a version."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from backstay.evaluation.comparison.judging import judge_version, vectors_of
from backstay.evaluation.comparison.keys import CellKey, FitKey, JudgeKey, Outputs, TrainKey
from backstay.evaluation.comparison.values import Data, Fitted, Judgement
from backstay.evaluation.consumers.labels import ConsumerTask, Examples, TaskName
from backstay.evaluation.consumers.model import Consumer
from backstay.evaluation.consumers.training import ConsumerConfig, train_consumers
from backstay.evaluation.metrics.ranking import recall_score
from backstay.training.request import FitRequest, Predecessor, VersionPlan
from backstay.training.version import fit_version

Float32 = npt.NDArray[np.float32]
Keys = tuple[CellKey[object], ...]


@dataclass(frozen=True, kw_only=True)
class FitCell:
    """Fits one version by one method."""

    key: FitKey
    plan: VersionPlan
    older: tuple[FitKey, ...] = ()  # versions 0 … k - 1 by a method with maps back to them
    fitted: FitKey | None = None  # the finished model, if only its map is to be fitted

    own_process: ClassVar[bool] = True
    uses: ClassVar[Keys] = ()

    @property
    def needs(self) -> Keys:
        """See Cell."""
        return (*self.older, self.fitted) if self.fitted else self.older

    def run(self, data: Data, outputs: Outputs) -> Fitted:
        """See Cell."""
        plan, step = self.plan, data.steps[self.key.version]
        older = [outputs[key] for key in self.older]
        fitted = outputs[self.fitted] if self.fitted else None
        predecessor = None
        if older:
            matrices: tuple[Float32, ...] = ()
            if plan.method.aligns:
                matrices = tuple(maps.matrix for maps in older[-1].backward)
            newest, *others = (part.model for part in reversed(older))
            others = others if plan.solves_for_all else []
            predecessor = Predecessor(newest, matrices, tuple(others))
        request = FitRequest(
            step=step,
            attributes=data.attributes,
            plan=plan,
            previous=predecessor,
            fitted=fitted.model if fitted else None,
        )
        result = fit_version(request, score=recall_score(step))
        backward = older[-1].backward if older else ()
        return Fitted(
            version=self.key.version,
            model=result.model,
            backward=(result.backward, *backward) if result.backward else backward,
            curves=result.curves,
            seconds=result.seconds + (fitted.seconds if fitted else 0.0),
            peak_rss_mb=max(result.peak_rss_mb, fitted.peak_rss_mb if fitted else 0.0),
        )


@dataclass(frozen=True, kw_only=True)
class TrainCell:
    """Trains the consumers of one task."""

    task: ConsumerTask
    config: ConsumerConfig

    own_process: ClassVar[bool] = False
    needs: ClassVar[tuple[FitKey, ...]] = (FitKey(0),)
    uses: ClassVar[Keys] = ()

    @property
    def key(self) -> TrainKey:
        """See Cell."""
        return TrainKey(self.task.name)

    def run(self, data: Data, outputs: Outputs) -> list[Consumer]:
        """See Cell."""
        model = outputs[FitKey(0)].model
        own = {
            index: vectors_of(data.steps[index], model.embed(data.steps[index], data.attributes))
            for index in {0, self.task.early_stop_step}
        }
        early_stop = own[self.task.early_stop_step]
        return train_consumers(self.task, own[0], early_stop, config=self.config)


@dataclass(frozen=True, kw_only=True)
class JudgeCell:
    """Judges one version by one method. A task without consumers is left out."""

    key: JudgeKey
    seed: int  # of the fits
    versions: tuple[FitKey, ...]  # the method's versions 0 … k
    examples: Mapping[TaskName, Examples]  # of version k, per task

    own_process: ClassVar[bool] = False

    @property
    def needs(self) -> tuple[FitKey, ...]:
        """See Cell."""
        return self.versions

    @property
    def uses(self) -> tuple[TrainKey, ...]:
        """See Cell."""
        return tuple(map(TrainKey, self.examples))

    def run(self, data: Data, outputs: Outputs) -> Judgement:
        """See Cell."""
        consumers = {key.task: outputs.get(key) for key in self.uses}
        return judge_version(
            data,
            [outputs[key] for key in self.versions],
            method=self.key.method,
            seed=self.seed,
            examples=self.examples,
            consumers={task: trained for task, trained in consumers.items() if trained},
        )
