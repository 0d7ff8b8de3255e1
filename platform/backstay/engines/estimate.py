"""`backstay update --dry-run`: what an update would cost, and whom it would affect.

Nothing is written. The time and the memory are measured: the fit itself begins, in this process and
in memory alone, and is stopped after some seconds.
"""

import time
from dataclasses import dataclass, field, replace
from uuid import uuid4

from backstay.datasets.dataset import Dataset
from backstay.engines.fit import FitRun, fit_here
from backstay.engines.update_config import UpdateConfig
from backstay.engines.update_plan import UpdatePlan, plan_update, published_request
from backstay.evaluation.contracts.guard import Finding
from backstay.registry.aliases import aliases
from backstay.registry.contracts import contracts
from backstay.registry.manifest import MODEL
from backstay.registry.store import Registry
from backstay.storage.files import open_files
from backstay.training.memory import peak_memory
from backstay.training.progress import Progress
from backstay.training.request import FitRequest
from backstay.training.version import untrained

PROBE_SECONDS = 5.0
"""Each phase of the fit is stopped at the first report after this time."""

_FLOAT = 4  # bytes of a float32


@dataclass(frozen=True, kw_only=True)
class UpdateEstimate:
    """What an update would do."""

    space: str
    version: int
    already_published: bool  # then the update would do nothing
    method: str
    dim: int
    training_interactions: int
    validation_interactions: int
    rows: dict[str, int]  # per entity
    bytes: int  # of the vectors and the model, about
    seconds: float  # of the fit, about
    memory_mb: float  # greatest resident memory of the fit so far, MB of 10⁶ bytes
    estimated: str  # how seconds and memory were
    refused: list[Finding]  # what the guard finds before the fit
    consumers: list[dict[str, object]]  # the contracts that the candidate would be checked against
    aliases: dict[str, int | None]  # alias -> the version it points to
    moves: str  # what --promote would do


def estimate(config: UpdateConfig) -> UpdateEstimate:
    """Plan the update, begin its fit, and stop it."""
    data = Dataset.open(config.dataset)
    space = Registry(config.registry).space(config.space)
    done = published_request(
        space, config.request_id(data.info.fingerprint), run_name=config.run_name
    )
    plan = plan_update(config, data, space)
    snapshot, dim = plan.request.step, plan.request.plan.dim
    rows = {"user": snapshot.n_users, "item": snapshot.n_items}
    probe = _Probe()
    if not done:
        probe.run(plan, config)
    pointed = aliases(space)
    before = pointed.get(config.promote)
    return UpdateEstimate(
        space=space.name,
        version=done.version if done else plan.version,
        already_published=done is not None,
        method=config.method,
        dim=dim,
        training_interactions=len(snapshot.train),
        validation_interactions=len(snapshot.validation),
        rows=rows,
        bytes=sum(rows.values()) * dim * _FLOAT + _model_bytes(plan),
        seconds=round(sum(probe.seconds_by.values()), 1),
        memory_mb=round(probe.memory_mb, 1),
        estimated=probe.how,
        refused=plan.findings,
        consumers=[
            {"name": each.name, "reads": each.version, "contact": each.contact}
            for each in contracts(space)
        ],
        aliases=dict(pointed),
        moves="no alias"
        if done or config.promote == "none"
        else f"{config.promote} from version {before} to version {plan.version}"
        if before is not None
        else f"{config.promote} to version {plan.version}",
    )


class _EnoughError(Exception):
    """Stops the fit of a probe."""


@dataclass
class _Probe:
    """The first seconds of each phase of a fit."""

    seconds_by: dict[str, float] = field(default_factory=dict)  # phase -> seconds, about
    memory_mb: float = 0.0
    how: str = "not at all: this request is published"
    _stopped: list[str] = field(default_factory=list)  # in words: where each fit was stopped
    _started: float = 0.0

    def run(self, plan: UpdatePlan, config: UpdateConfig) -> None:
        """Begin the fit, and stop it at the first report after `PROBE_SECONDS`.

        If it is stopped before the phase of a post-hoc map, that phase is begun too, with an
        untrained model.
        """
        request, method = plan.request, plan.request.plan.method
        with peak_memory() as peak:
            self._begin(request, config)
            aligned_afterwards = request.previous and method.posthoc and method.aligns
            if aligned_afterwards and "map" not in self.seconds_by:
                self._begin(replace(request, fitted=untrained(request)), config)
        self.memory_mb = peak.rss_mb
        self.how = (
            f"extrapolated from the first {' and '.join(self._stopped)}, in this process"
            if self._stopped
            else "measured: the whole fit, in this process"
        )

    def _begin(self, request: FitRequest, config: UpdateConfig) -> None:
        files = open_files(f"memory://backstay-dry-run/{uuid4().hex}")
        place = FitRun(files=files, folder="probe", gpu=config.gpu, watch=self._watch)
        self._started = time.perf_counter()
        try:
            fitted = fit_here(request, place)
        except _EnoughError:
            return
        finally:
            files.remove("")
        self.seconds_by |= {
            phase: sum(seconds.values()) for phase, seconds in fitted.seconds_by.items()
        }

    def _watch(self, phase: str, progress: Progress) -> None:
        self.seconds_by[phase] = progress.seconds + progress.remaining
        if time.perf_counter() - self._started >= PROBE_SECONDS:
            self._stopped.append(f"{progress.step} of {progress.steps} steps of the {phase}")
            raise _EnoughError


def _model_bytes(plan: UpdatePlan) -> int:
    """The size of the model before, scaled to the new dimension; 0 for a first version."""
    parent = plan.parent
    if parent is None or MODEL not in parent.files:
        return 0
    return round(parent.files[MODEL].size * plan.request.plan.dim / parent.dim)
