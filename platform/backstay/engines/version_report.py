"""The answer of an update or an import: the published version, and the next command."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from backstay.engines.candidate import Comparison, compare_with_before
from backstay.evaluation.contracts.promote import promote_new
from backstay.registry.store import Space
from backstay.registry.table_storage import TableStorage, storage
from backstay.storage.documents import JsonObject


@dataclass(frozen=True, kw_only=True)
class VersionReport:
    """A version that an update or an import published."""

    space: str
    version: int
    method: str
    dim: int
    rows: dict[str, int]  # per entity
    tables: list[TableStorage]
    metrics: Mapping[str, object]
    comparison: list[Comparison]
    contracts: list[JsonObject]  # verdicts of consumer contracts
    run: str
    manifest_sha256: str
    published: str = field(default="now", compare=False)  # or: by an earlier run
    promoted: str | None = field(compare=False)  # the alias that points to it since
    next: str = field(compare=False)  # the command to go on with


def promoted_report(
    space: Space, version: int, *, promote: str, why: str, published: str = "now"
) -> VersionReport:
    """Point the alias `promote` to a published version, unless it is "none", and report both."""
    promoted = promote_new(space, version, alias=promote, why=why)
    command = "show" if promoted else "promote"
    manifest, metrics = space.manifest(version), space.metrics(version)
    return VersionReport(
        space=space.name,
        version=version,
        method=manifest.method,
        dim=manifest.dim,
        rows={name: entity.rows for name, entity in manifest.entities.items()},
        tables=storage(space, manifest),
        metrics=metrics,
        comparison=compare_with_before(metrics, dim=manifest.dim),
        contracts=space.verdicts(version),
        run=manifest.run_id,
        manifest_sha256=manifest.sha256,
        published=published,
        promoted=promoted,
        next=f"backstay {command} --registry {space.uri} --space {space.name} {version}",
    )
