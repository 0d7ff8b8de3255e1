"""`backstay import`: an outside table becomes the next version of a space."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from backstay.engines.import_map import FittedMap, fit_map
from backstay.engines.import_source import read_source, source_labels
from backstay.engines.update_plan import published_request
from backstay.engines.version_report import VersionReport, promoted_report
from backstay.errors import InputError, RegistryError, UsageError, VersionExistsError
from backstay.evaluation.contracts import guard
from backstay.evaluation.contracts.check import run_contracts
from backstay.evaluation.contracts.vectors import CandidateVectors
from backstay.registry.contracts import contracts
from backstay.registry.draft import Draft
from backstay.registry.labels import refuse_mixed
from backstay.registry.manifest import Manifest
from backstay.registry.store import Registry, Space
from backstay.registry.tables import Batch, EmbeddingTable
from backstay.storage.ids import IdType

log = logging.getLogger("backstay.update")

METHOD = "import"


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """One import, as the user asks for it."""

    registry: str
    space: str
    tables: tuple[str, ...]  # path or URL of each table
    entities: tuple[str, ...] = ()  # of each table; (): the files' names
    ids: Path | None = None  # of a table *.npy
    id_types: tuple[IdType, ...] = ()  # of all tables, or of each; (): as the tables hold them
    no_map: bool = False
    delta: Literal["auto", "never"] = "auto"
    force: bool = False
    max_alignment_error: float = guard.ALIGNMENT_ERROR
    promote: str = "none"

    @property
    def sources(self) -> dict[str, str]:
        """Entity -> path."""
        names = self.entities or tuple(Path(path).stem for path in self.tables)
        if len(names) != len(self.tables) or len(set(names)) != len(names):
            raise UsageError(
                f"expected one --entity for each of the {len(self.tables)} tables, all different; "
                f"found {', '.join(names)}."
            )
        if self.ids and len(names) > 1:
            raise UsageError("--ids goes with one --table alone. Import Parquet files instead.")
        if len(self.id_types) not in {0, 1, len(names)}:
            raise UsageError(
                f"expected --id-type once, or once for each of the {len(names)} tables; found "
                f"{len(self.id_types)} of them."
            )
        return dict(zip(names, self.tables, strict=True))

    def id_type(self, entity: str) -> IdType | None:
        """What the ids of an entity are read as; None: as its table holds them."""
        if len(self.id_types) < len(self.tables):
            return next(iter(self.id_types), None)
        return self.id_types[list(self.sources).index(entity)]


def import_tables(config: ImportConfig) -> VersionReport:
    """Publish outside tables as the next version, with a map to the version before.

    The same tables imported again publish nothing more.

    Raises:
        InputError: A table breaks its format, or shares too few ids with the version before; or
            the tables are labelled as of two spaces or versions.
        RegistryError: The guard or a contract refuses the version.
    """
    _refuse_two_builds(config)
    space = Registry(config.registry).space(config.space)
    space.finish_commit(space.next_version())
    versions = space.versions()
    parent = space.manifest(versions[-1]) if versions else None
    version = parent.version + 1 if parent else 0
    draft = space.draft(version, run_id=f"{METHOD}-{uuid4().hex[:12]}")
    try:
        request = _stage(config, draft, parent)
        done = published_request(space, request, run_name=None)
        if done:
            log.info("these tables were imported already, as version %d", done.version)
            version = done.version
        else:
            _publish(config, space, draft, parent, request=request)
    except VersionExistsError as error:
        raise RegistryError(
            f"another process publishes version {version} of space {space.name!r}, or has "
            "published it. Nothing of this import stays: repeat the command. If that one is dead, "
            "`backstay gc --yes` frees the number after a day."
        ) from error
    finally:
        draft.discard()
    return promoted_report(
        space,
        version,
        promote=config.promote,
        why="import",
        published="by an earlier run" if done else "now",
    )


def _refuse_two_builds(config: ImportConfig) -> None:
    """InputError where the tables are labelled as of two spaces or versions."""
    found = [labels for path in config.sources.values() if (labels := source_labels(path))]
    for labels in found[1:]:
        refuse_mixed(found[0], labels, registry=config.registry)


def _stage(config: ImportConfig, draft: Draft, parent: Manifest | None) -> str:
    """Stage all tables; a hash of what they hold and of the settings."""
    digest = hashlib.sha256(json.dumps([sorted(config.sources), config.no_map]).encode())
    for entity, path in sorted(config.sources.items()):
        batches = _hashed(read_source(path, config.ids, config.id_type(entity)), digest)
        base = None if parent is None or config.delta == "never" else parent.version
        draft.write_table(entity, batches, base=base)
    return digest.hexdigest()[:16]


def _hashed(batches: Iterator[Batch], digest: "hashlib._Hash") -> Iterator[Batch]:
    for ids, values in batches:
        if pa.types.is_integer(ids.type):
            digest.update(ids.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
        else:
            digest.update(
                pc.binary_length(ids).fill_null(0).to_numpy(zero_copy_only=False).tobytes()
            )
            digest.update(pc.binary_join(pa.array([ids.to_pylist()]), "\n")[0].as_buffer())
        digest.update(values.tobytes())
        yield ids, values


def _publish(
    config: ImportConfig, space: Space, draft: Draft, parent: Manifest | None, *, request: str
) -> None:
    version, name = draft.version, f"{space.name} version {draft.version}"
    tables = {entity: draft.table(entity) for entity in config.sources}
    fitted = None
    if parent and not config.no_map:
        fitted = _fit(space, parent, tables)
        draft.write_backward(fitted.backward)
    vectors = CandidateVectors(
        space=space,
        version=version,
        dim=next(iter(tables.values())).dim,
        tables={entity: table.batches for entity, table in tables.items()},
        backward=fitted.backward if fitted else None,
    )
    verdicts = run_contracts(space, vectors)
    findings = guard.refuse(
        [
            *(_findings(config, space, parent, tables, fitted) if parent else ()),
            *map(guard.broken_contract, verdicts),
        ],
        what=f"{name} is not published",
        force=config.force,
    )
    metrics: dict[str, object] = dict(fitted.metrics) if fitted else {}
    if parent:
        metrics["before"] = {"version": parent.version, "dim": parent.dim}
    metrics["guard"] = [asdict(finding) for finding in findings]
    draft.write_metrics(metrics)
    if verdicts:
        draft.write_verdicts([asdict(verdict) for verdict in verdicts])
    draft.publish(
        parent=parent.version if parent else None,
        method=METHOD,
        config={"request": request, "tables": config.sources, "map": not config.no_map},
        dataset_fingerprint=request,
        dim=vectors.dim,
    )


def _fit(space: Space, parent: Manifest, tables: Mapping[str, EmbeddingTable]) -> FittedMap:
    shared = [entity for entity in tables if entity in parent.entities]
    if not shared:
        raise UsageError(
            f"--entity must be one of version {parent.version}, {', '.join(parent.entities)}, to "
            f"fit a map on its ids; found {', '.join(tables)}. Correct it, or give --no-map."
        )
    older = [space.table(parent.version, entity) for entity in shared]
    for table in older:
        found = tables[table.entity].id_type
        if found != table.id_type:
            raise InputError(
                f"version {parent.version} has {table.id_type} ids of {table.entity}; found "
                f"{found} ids. Give --id-type {table.id_type}, or --no-map."
            )
    return fit_map([tables[entity] for entity in shared], older)


def _findings(
    config: ImportConfig,
    space: Space,
    parent: Manifest,
    tables: Mapping[str, EmbeddingTable],
    fitted: FittedMap | None,
) -> list[guard.Finding | None]:
    """The guard's checks of an import against the version before."""
    ids = {entity: (table.id_type, table.id_batches()) for entity, table in tables.items()}
    found = [guard.lost_ids(space, parent, ids, advice="Import a table for each that holds them.")]
    if fitted is None:
        readers = [f"{each.name} (version {each.version})" for each in contracts(space)]
        advice = "Leave --no-map out."
        return [
            *found,
            guard.cut_off(space, parent, what="--no-map", readers=readers, advice=advice),
        ]
    relative = cast("dict[str, float]", fitted.metrics["relative_alignment_error"])
    return [*found, guard.worse_alignment(relative, {}, limit=config.max_alignment_error)]
