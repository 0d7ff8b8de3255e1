"""The configuration of one update."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from backstay.checks import AtLeastOne, NotNegative, check_fields
from backstay.compat.methods import METHODS, find_method
from backstay.engines.fit import CHECKPOINT_SECONDS
from backstay.errors import UsageError
from backstay.evaluation.contracts.guard import ALIGNMENT_ERROR, RECALL_LOSS
from backstay.training.config import RECIPES, FitConfig, Recipe, Sampling

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """One update, as the user asks for it; None means that the profile or the default decides."""

    registry: str  # root of the registry: path or URL
    space: str
    dataset: Path  # dataset folder
    until: Share  # position on the timeline up to which the version trains
    window: Share = 0.1  # length of the timeline after `until` that evaluates it
    method: str = "bc-aligner"
    weight: NotNegative | None = None  # λ of the alignment loss; None: the profile's
    dim: AtLeastOne | None = None  # D_k; None: 256 at first, then 64 more than the version before
    new_dims: Annotated[int, Field(ge=0)] | None = None  # D_k minus the dimension of version k - 1
    layers: AtLeastOne | None = None  # None: 2 for versions 0 and 1, 3 from then on
    profile: Recipe = "fast"  # the recipe; the options below replace its values
    architecture: str = "pinsage"
    epochs: AtLeastOne | None = None  # from scratch; a warm start scales with it
    rate: NotNegative | None = None  # factor of all learning rates
    batch_size: AtLeastOne | None = None
    evaluate_every: AtLeastOne | None = None  # epochs between two evaluations
    sampling: Sampling | None = None  # whole graphs or sampled neighbours; auto: by the size
    fan_out: AtLeastOne | None = None  # neighbours sampled per node and layer
    groups: AtLeastOne | None = None  # sampled graphs per batch: the most workers
    seed: int = 42
    workers: int | tuple[int, int] | None = None
    """Ray Train workers, or the least and the most of them. 0: fit in this process. None: 1 on a
    cluster, else 0."""
    gpu: bool = False  # one GPU per worker
    checkpoints: str | None = None  # path or URL; None: <registry>/<space>/runs
    checkpoint_seconds: Annotated[float, Field(gt=0)] = (
        CHECKPOINT_SECONDS  # between two checkpoints
    )
    log_dir: Path | None = None  # folder for TensorBoard's events and fit_report.json
    run_name: str | None = None  # None: derived from everything above that shapes the version
    force: bool = False  # publish in spite of the guard's findings
    max_recall_loss: NotNegative = RECALL_LOSS
    max_alignment_error: NotNegative = ALIGNMENT_ERROR
    promote: str = "none"  # alias to point to the new version

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dim and self.new_dims is not None:
            raise UsageError(
                f"expected --dim or --new-dims, found both ({self.dim}, {self.new_dims}). "
                "Leave one out."
            )
        if not find_method(self.method).publishable:
            raise UsageError(
                f"--method {self.method} fits a map with an offset, or separate maps for users and "
                "items. Such maps can be compared, not published; expected one of "
                f"{', '.join(name for name, method in METHODS.items() if method.publishable)}."
            )

    @property
    def fit(self) -> FitConfig:
        """The configuration of the fit."""
        recipe = RECIPES[self.profile]
        changes: dict[str, Any] = {
            "batch_size": self.batch_size,
            "group_size": self.batch_size and -(-self.batch_size // (self.groups or recipe.groups)),
            "evaluate_every": self.evaluate_every,
            "sampling": self.sampling,
            "fan_out": self.fan_out,
            "groups": self.groups,
            "weight": self.weight,
            "seed": self.seed,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(recipe, **given).scaled(self.epochs).at_rate(self.rate)

    def request_id(self, fingerprint: str) -> str:
        """16 hex digits, equal for equal requests: the same data, timeline, method and settings.

        It doesn't depend on the version before, so that a retry after success has the same. Nor on
        options that don't shape the vectors. `fingerprint` is the dataset's.
        """
        request = {
            "data": fingerprint,
            "timeline": [self.until, self.window],
            "method": self.method,
            "shape": [self.architecture, self.dim, self.layers, self.new_dims],
            "fit": asdict(self.fit),
        }
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
