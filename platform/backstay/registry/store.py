"""The registry: spaces of versions under one root, a local folder or an object store.

<root>/<space>/versions/<k>/manifest.json        the version exists when this does
                            model.safetensors
                            backward.safetensors
                            tables/<entity>/part-*.parquet
                            metrics.json
                            claim.json, …        which run published it
                            retired.json         once it is retired
<root>/<space>/staging/<run_id>/…                drafts; readers never look here
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from backstay.compat.maps import BackwardMap, compose, identity
from backstay.errors import MapMismatchError, NotFoundError
from backstay.registry.aliases import resolve
from backstay.registry.changes import change_token
from backstay.registry.draft import Draft
from backstay.registry.manifest import (
    BACKWARD,
    CONTRACTS,
    FIT_REPORT,
    METRICS,
    MODEL,
    RETIRED,
    Manifest,
    check_name,
)
from backstay.registry.space_files import SpaceFiles, spaces
from backstay.registry.staging import StagedDraft, staged_drafts
from backstay.registry.stored import published_table
from backstay.registry.tables import EmbeddingTable
from backstay.registry.tensors import StoredModel, decode_map, decode_model
from backstay.storage.digests import check_bytes
from backstay.storage.documents import JsonObject, parse_object, parse_sealed
from backstay.storage.files import open_files

_log = logging.getLogger("backstay.registry")


@dataclass(frozen=True, kw_only=True)
class Retirement:
    """The content of `retired.json`."""

    reason: str
    retired: str  # UTC, ISO 8601
    removed: tuple[str, ...]  # files that are gone
    freed: int  # bytes


_retirement = TypeAdapter(Retirement)


class Registry:
    """A registry root: a path, or a URL such as s3://bucket/path. Can be pickled.

    A root that holds nothing yet is an empty registry; publishing makes it.
    `storage_options` go to the fsspec file system, for instance {"endpoint_url": …} for s3://.
    """

    def __init__(
        self, uri: str | Path, *, storage_options: Mapping[str, object] | None = None
    ) -> None:
        self.uri = str(uri)
        self.files = open_files(uri, storage_options=storage_options)

    def __repr__(self) -> str:
        return f"Registry({self.uri!r})"

    def spaces(self) -> list[str]:
        """The spaces with at least one published version."""
        return spaces(self.files, self.uri)

    def change_token(self) -> str | None:
        """A text that differs once any space was written, by one request; see `changes`."""
        return change_token(self.files)

    def space(self, name: str) -> "Space":
        """A space, which need not hold a version yet."""
        return Space(self.files, check_name(name, what="a space"), self.uri)


class Space(SpaceFiles):
    """One named family of versions. `Registry.space` makes it. Can be pickled."""

    def __repr__(self) -> str:
        return f"Space({self.name!r} of {self.uri})"

    def model(self, version: int) -> StoredModel:
        """The model of a version: config, weights, vocabulary."""
        manifest = self.manifest(version)
        data = self._read(manifest, MODEL, what="model")
        return decode_model(data, path=self.full(version, MODEL))

    def metrics(self, version: int) -> JsonObject:
        """The metrics that were published with a version."""
        data = self._read(self.manifest(version), METRICS, what="metrics")
        return parse_object(data, path=self.full(version, METRICS))

    def fit_report(self, version: int) -> JsonObject:
        """The report of a version's fit: its steps, figures and seconds."""
        data = self._read(self.manifest(version), FIT_REPORT, what="fit report")
        return parse_object(data, path=self.full(version, FIT_REPORT))

    def verdicts(self, version: int) -> list[JsonObject]:
        """The verdicts of consumer contracts on a version; [] if it was checked against none."""
        manifest = self.manifest(version)
        if CONTRACTS not in manifest.files:
            return []
        data = self._read(manifest, CONTRACTS, what="verdicts")
        verdicts: list[JsonObject] = parse_object(data, path=self.full(version, CONTRACTS))[
            "verdicts"
        ]
        return verdicts

    def table(self, version: int, entity: str) -> EmbeddingTable:
        """The table of an entity, opened without reading it."""
        manifest = self.manifest(version)
        if entity not in manifest.entities:
            raise NotFoundError(
                f"{self.name} version {version} has no table of {entity!r}; "
                f"it has {sorted(manifest.entities)}."
            )
        self.refuse_retired(version, what=f"table of {entity}")
        return published_table(self, manifest, entity)

    def backward_map(self, version: int) -> BackwardMap:
        """B_version, float32 (D_{version-1}, D_version), from this version to the one before."""
        manifest = self.manifest(version)
        if BACKWARD not in manifest.files:
            why = (
                "it is the first version"
                if version == 0
                else f"it was published by {manifest.method} without one, so every chain from "
                f"version {version} or newer to version {version - 1} or older is broken here"
            )
            raise NotFoundError(f"{self.name} version {version} has no backward map: {why}.")
        path = self.full(version, BACKWARD)
        data = self._read(manifest, BACKWARD, what="backward map")
        backward, fingerprints = decode_map(data, path=path)
        found = (backward.space, backward.source, backward.target, *backward.matrix.shape)
        shape = (manifest.dims[version - 1], manifest.dim)
        expected = (self.name, version, version - 1, *shape)
        if found != expected:
            raise MapMismatchError(
                f"{path} must be the map (space, source, target, rows, columns) {expected}; found "
                f"{found}. Run `backstay verify`."
            )
        source = manifest.fingerprint()
        if fingerprints.get("source", source) != source:
            raise MapMismatchError(
                f"{path} must be of the build with fingerprint {source}; found "
                f"{fingerprints['source']}. It was copied from another build: restore this one's."
            )
        return backward

    def chain(self, source: int, target: int) -> BackwardMap:
        """The map from version `source` to the older `target`, float32 (D_target, D_source).

        Composed in float64 and rounded once; the identity where both are the same version.
        """
        if target > source:
            raise MapMismatchError(
                f"maps lead from newer versions to older ones; found {source} → {target}. "
                f"Only a new fit leads from version {source} of {self.name} to a newer one."
            )
        if source == target:
            return identity(self.name, source, self.manifest(source).dim)
        self.manifest(target)
        return compose([self.backward_map(k) for k in range(target + 1, source + 1)])

    def resolve(self, name: str | int | None = None) -> int:
        """The version that a number, an alias or `latest` means; by default `prod` or `latest`."""
        return resolve(self, name)

    def draft(self, version: int, *, run_id: str) -> Draft:
        """The staging place of a run for `version`, with all that it staged before a crash.

        `run_id` must be different for every run, and the same after a restart of one.
        """
        return Draft(self, version=version, run_id=run_id)

    def drafts(self) -> list[StagedDraft]:
        """The drafts that are not published: of runs in progress, refused or dead."""
        return staged_drafts(self)

    def retired(self, version: int) -> Retirement | None:
        """The record of a version's retirement; None if it is not retired."""
        path = self.path(version, RETIRED)
        try:
            data = self.files.read(path)
        except FileNotFoundError:
            return None
        return parse_sealed(_retirement, data, path=self.files.full(path), unsealed=True)

    def _read(self, manifest: Manifest, name: str, *, what: str) -> bytes:
        """A small file of a version; CorruptError unless it has the manifest's size and hash."""
        version = manifest.version
        path = self.full(version, name)
        if name not in manifest.files:
            raise NotFoundError(f"{self.name} version {version} was published without {what}.")
        if name == MODEL:
            self.refuse_retired(version, what=what)
        try:
            data = self.files.read(self.path(version, name))
        except FileNotFoundError:
            raise NotFoundError(
                f"{path} is gone, though the manifest lists it. "
                "Run `backstay verify` and restore it from a copy."
            ) from None
        return check_bytes(data, manifest.files[name], path=path)

    def refuse_retired(self, version: int, *, what: str) -> None:
        """NotFoundError where a version is retired; `what` of it the caller wants to read."""
        retirement = self.retired(version)
        if retirement:
            latest = self.latest()
            raise NotFoundError(
                f"{self.name} version {version} was retired on {retirement.retired}, its {what} "
                f"with it. Read its vectors out of a newer version: `backstay convert --registry "
                f"{self.uri} --space {self.name} --from {latest} --to {version} --output DIR`."
            )
