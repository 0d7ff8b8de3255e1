"""The plan of an update: what is fitted, on what, and what the guard says before the fit."""

import hashlib
import json
from dataclasses import asdict, dataclass

import pyarrow as pa

from backstay.compat.methods import find_method
from backstay.datasets.dataset import Dataset, Interactions
from backstay.datasets.timeline import step
from backstay.engines.candidate import stored_model
from backstay.engines.update_config import UpdateConfig
from backstay.errors import NotFoundError, RegistryError
from backstay.evaluation.contracts import guard
from backstay.evaluation.contracts.guard import Finding
from backstay.registry.contracts import contracts
from backstay.registry.manifest import Manifest
from backstay.registry.store import Space
from backstay.storage.ids import IdType
from backstay.training.request import FitRequest, Predecessor, VersionPlan

FIRST_DIM, DIM_GROWTH = 256, 64
"""The paper's D_0, and the dimensions that each later version adds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UpdatePlan:
    """One version that is about to be fitted."""

    space: str
    version: int
    parent: Manifest | None  # of the version before
    interactions: Interactions
    request: FitRequest
    findings: list[Finding]  # of the guard

    @property
    def name(self) -> str:
        """The version, for messages."""
        return f"{self.space} version {self.version}"

    def run_name(self, request_id: str) -> str:
        """A name that is the same for the same request on the same parent, so that it resumes."""
        parent = self.parent.sha256 if self.parent else None
        shape = {"request": request_id, "plan": asdict(self.request.plan), "parent": parent}
        digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
        return f"{self.space}-v{self.version}-{digest[:12]}"


def published_request(space: Space, request_id: str, *, run_name: str | None) -> Manifest | None:
    """The manifest of the version that this request, or this named run, has published.

    RegistryError where the named run published another request.
    """
    for version in reversed(space.versions()):
        manifest = space.manifest(version)
        recorded = manifest.config.get("request")
        if run_name is None and recorded == request_id:
            return manifest
        if manifest.run_id == run_name:
            if recorded not in {None, request_id}:
                raise RegistryError(
                    f"run {run_name} published version {version} of {space.name} with other "
                    "settings or other data. Use another --run-name for this request."
                )
            return manifest
    return None


def plan_update(config: UpdateConfig, data: Dataset, space: Space) -> UpdatePlan:
    """Read the data and the version before, and check what can be checked before the fit."""
    version = space.next_version()
    parent = space.manifest(version - 1) if version else None
    interactions = data.interactions()
    attributes = data.attributes(interactions.item_ids)
    snapshot = step(interactions, version, config.until, min(config.until + config.window, 1.0))
    plan = VersionPlan(
        method=find_method(config.method),
        dim=config.dim or _next_dim(parent, config.new_dims),
        layers=config.layers or (2 if version < 2 else 3),  # noqa: PLR2004  (the paper's)
        fit=config.fit,
        architecture=config.architecture,
    )
    ids = {
        "user": interactions.user_ids[: snapshot.n_users],
        "item": interactions.item_ids[: snapshot.n_items],
    }
    findings = [guard.unmeasured(len(snapshot.validation), until=config.until)]
    if parent:
        findings += _against_parent(config, data, space, plan, parent=parent, ids=ids)
    return UpdatePlan(
        space=space.name,
        version=version,
        parent=parent,
        interactions=interactions,
        request=FitRequest(
            step=snapshot,
            attributes=attributes,
            plan=plan,
            previous=_predecessor(space, version, plan) if version else None,
        ),
        findings=[finding for finding in findings if finding],
    )


def _against_parent(
    config: UpdateConfig,
    data: Dataset,
    space: Space,
    plan: VersionPlan,
    *,
    parent: Manifest,
    ids: dict[str, pa.Array],
) -> list[Finding | None]:
    """The guard's checks of a plan against the version before."""
    without_map = plan.method.map == "none"
    readers = [f"{each.name} (version {each.version})" for each in contracts(space)]
    return [
        guard.earlier_until(config.until, parent),
        guard.other_dataset(data.info.name, parent),
        guard.lost_ids(
            space,
            parent,
            {entity: (_id_type(column), [column]) for entity, column in ids.items()},
            advice="Use a dataset that still holds them, or a later end of the window.",
        ),
        guard.narrower(plan.dim, plan.method, parent),
        guard.cut_off(
            space,
            parent,
            what=f"--method {config.method}",
            readers=readers,
            advice="Use a method with a map.",
        )
        if without_map
        else None,
    ]


def _id_type(ids: pa.Array) -> IdType:
    return "int64" if pa.types.is_integer(ids.type) else "string"


def _predecessor(space: Space, version: int, plan: VersionPlan) -> Predecessor:
    """The model of version k - 1, with the maps and models of older versions that the fit reads."""
    matrices = []
    for older in range(version - 1, 0, -1):
        try:
            matrices.append(space.backward_map(older).matrix)
        except NotFoundError:
            break  # published without a map: no chain reaches the versions below it
    models = []
    for number in range(version - 2, -1, -1) if plan.solves_for_all else ():
        try:
            models.append(stored_model(space, number))
        except NotFoundError:
            break  # retired
    return Predecessor(stored_model(space, version - 1), tuple(matrices), tuple(models))


def _next_dim(parent: Manifest | None, new_dims: int | None) -> int:
    """The dimension of a version, where the user does not say it."""
    if parent is None:
        return FIRST_DIM
    return parent.dim + (DIM_GROWTH if new_dims is None else new_dims)
