"""A draft of a version: staged out of readers' sight, then published whole or not at all.

`publish` claims the number, commits to the staged files, places them, and creates the manifest
last. Killed before the commit, it leaves no version, and the same run does it again from the start.
Killed after it, the next publisher or the same run finishes it.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

import backstay
from backstay.compat.maps import BackwardMap
from backstay.errors import InputError, MapMismatchError, RegistryError, VersionExistsError
from backstay.registry.claims import Claim, new_nonce
from backstay.registry.dimension import one_dimension
from backstay.registry.fingerprint import fingerprint
from backstay.registry.manifest import (
    BACKWARD,
    CONTRACTS,
    DELTA_FORMAT,
    FIT_REPORT,
    FORMAT,
    METRICS,
    MODEL,
    DatasetEntry,
    EntityEntry,
    Manifest,
    check_name,
    now,
)
from backstay.registry.space_files import SpaceFiles
from backstay.registry.staging import StagedFiles
from backstay.registry.stored import whole_base
from backstay.registry.tables import Batch, EmbeddingTable
from backstay.registry.tensors import Array, StoredModel, decode_map, encode_map, encode_model
from backstay.storage.documents import canonical_json
from backstay.storage.files import FileDigest

_log = logging.getLogger("backstay.registry")


class Draft:
    """The draft of one version by one run. `Space.draft` makes it, or opens it again.

    Each `write_…` replaces the file that this run staged under the same name; the file is staged
    once the method returns. Only one process may work on a draft at a time.
    """

    def __init__(self, space: SpaceFiles, *, version: int, run_id: str) -> None:
        self.space = space
        self.version = version
        self.run_id = check_name(run_id, what="a run")
        self._files = space.files
        self._log = space.claims(version)
        space.finish_commit(version)  # before the files that it names are taken over
        self._staged = StagedFiles(space, version=version, run_id=run_id)

    @property
    def location(self) -> str:
        """Where the staged files are."""
        return self._staged.location

    @property
    def staged(self) -> dict[str, FileDigest]:
        """The files that are complete: path within the version -> size and hash."""
        return dict(self._staged.complete)

    def write_model(
        self,
        config: Mapping[str, object],
        weights: Mapping[str, Array],
        vocabulary: Mapping[str, tuple[str, ...]],
    ) -> None:
        """Stage the model: JSON-able config, numeric arrays, and attribute values by kind."""
        model = StoredModel(dict(config), dict(weights), dict(vocabulary))
        self._staged.write(MODEL, encode_model(model))

    def write_backward(self, backward: BackwardMap) -> None:
        """Stage B_k, float32 (D_{k-1}, D_k), from this version to the one before."""
        found = (backward.space, backward.source, backward.target)
        expected = (self.space.name, self.version, self.version - 1)
        if found != expected:
            raise MapMismatchError(
                f"version {self.version} takes the map (space, source, target) {expected}; "
                f"found {found}."
            )
        if backward.matrix.dtype != np.float32:
            raise InputError(f"{backward} must be float32; found {backward.matrix.dtype}.")
        self._staged.write(BACKWARD, encode_map(backward, fingerprints=self._map_ends(backward)))

    def write_table(
        self,
        entity: str,
        batches: Iterable[Batch],
        *,
        part_rows: int | None = None,
        base: int | None = None,
    ) -> None:
        """Stage the table of an entity; `batches` and errors as in `write_table_parts`.

        Where few rows differ from the entity's table of version `base`, only those are stored; all
        rows are then read in the order of that table, with new ones at the end.
        """
        entity = check_name(entity, what="an entity")
        whole = None if base is None else whole_base(self.space, base, entity)
        self._staged.write_table(entity, batches, part_rows=part_rows, base=whole)

    def table(self, entity: str) -> EmbeddingTable:
        """The staged table of an entity."""
        return next(table for table in self._staged.tables() if table.entity == entity)

    def write_metrics(self, metrics: Mapping[str, object]) -> None:
        """Stage the metrics, a JSON object."""
        self._staged.write(METRICS, canonical_json(dict(metrics), what="metrics"))

    def write_verdicts(self, verdicts: Sequence[Mapping[str, object]]) -> None:
        """Stage the verdicts of consumer contracts, JSON objects."""
        self._staged.write(CONTRACTS, canonical_json({"verdicts": verdicts}, what="verdicts"))

    def write_fit_report(self, report: Mapping[str, object]) -> None:
        """Stage the report of the fit, a JSON object."""
        self._staged.write(FIT_REPORT, canonical_json(dict(report), what="fit report"))

    def publish(
        self,
        *,
        parent: int | None,
        method: str,
        config: Mapping[str, object],
        dataset_fingerprint: str,
        dataset_name: str | None = None,
        until: float | None = None,
        dim: int | None = None,
    ) -> Manifest:
        """Make the staged files version k of the space, and clear the staging place.

        Repeated by the same run after a crash, it finishes; after success, it returns the published
        manifest.

        Args:
            parent: k - 1; None for version 0.
            method: The update method's name.
            config: All settings of the fit, JSON-able.
            dataset_fingerprint: The fingerprint of the data it was fitted on.
            dataset_name: The data's name.
            until: Position on the timeline up to which the data was seen, 0 to 1.
            dim: D_k; by default that of the staged tables or map.

        Raises:
            VersionExistsError: Another run has the number; this one's files stay staged.
            MapMismatchError: The staged map's shape is not (D_{k-1}, D_k).
            RegistryError: k is not the next version, or neither a model nor a table is staged.
        """
        published = self._published()
        if published:
            self._staged.clear()
            return published
        previous = self._previous(parent)
        tables = self._tables()
        dim = one_dimension(
            tables, self._map_shape(), dim=dim, version=self.version, previous=previous
        )
        manifest = Manifest(
            format=DELTA_FORMAT if any(table.base for table in tables) else FORMAT,
            space=self.space.name,
            version=self.version,
            run_id=self.run_id,
            parent=parent,
            parent_manifest_sha256=previous.sha256 if previous else None,
            method=method,
            config=dict(config),
            dims={**(previous.dims if previous else {}), self.version: dim},
            entities={t.entity: EntityEntry(rows=t.rows, id_type=t.id_type) for t in tables},
            dataset=DatasetEntry(fingerprint=dataset_fingerprint, name=dataset_name, until=until),
            files=self.staged,
            created=now(),
            backstay=backstay.__version__,
            build=self._staged.build,
        )
        manifest.to_json()  # InputError where it has no JSON form, before the number is claimed
        claim = self._claim()
        manifest = replace(manifest, claim=claim.nonce)
        self._staged.check()
        self._staged.tables()  # CorruptError where a base was retired meanwhile
        data = manifest.to_json()
        if not self._log.commit(claim, data, staging=self._staged.key):
            self._published()  # the other run may have finished meanwhile
            raise VersionExistsError(self._lost("its claim was released while it was publishing"))
        self.space.finish_commit(self.version)
        _log.info("published %s version %d", self.space.name, self.version)
        self._staged.clear()
        return Manifest.from_json(data)

    def discard(self) -> None:
        """Remove all staged files, and this run's unfinished claim on the number."""
        claim = self.space.claim(self.version)
        if claim and claim.run_id == self.run_id:
            self.space.release_claim(self.version, force=True)
        self._staged.clear()

    def _map_ends(self, backward: BackwardMap) -> dict[str, str]:
        """The fingerprints that a map carries: of its source, and of its target if published."""
        dim = backward.matrix.shape[1]
        own = fingerprint(self.space.name, None, self.version, dim, self._staged.build)
        parent = self.space.find_manifest(backward.target)
        return {"source": own} | ({"target": parent.fingerprint()} if parent else {})

    def _published(self) -> Manifest | None:
        """The manifest if this run has published; VersionExistsError if another run has."""
        self.space.finish_commit(self.version)
        if self.space.find_manifest(self.version) is None:
            return None
        manifest = self.space.manifest(self.version)
        if manifest.run_id != self.run_id:
            raise VersionExistsError(self._lost(f"run {manifest.run_id} has published it"))
        if not self._staged.complete.items() <= manifest.files.items():
            raise VersionExistsError(
                self._lost("this run has published it already, with other files")
            )
        return manifest

    def _lost(self, why: str) -> str:
        return (
            f"{self.space.name} version {self.version} can't be published by run {self.run_id}: "
            f"{why}. What this run staged is kept in {self.location}. Fit the next version on top "
            "of what is there, under another run id, or drop these files with Draft.discard()."
        )

    def _previous(self, parent: int | None) -> Manifest | None:
        next_ = self.space.next_version()
        if next_ > self.version:
            self._published()  # by another, since we looked: VersionExistsError
        if self.version != next_:
            raise RegistryError(
                f"the next version of {self.space.name} is {next_}; found a draft of version "
                f"{self.version}. Versions are published one after the other."
            )
        expected = self.version - 1 if self.version else None
        if parent != expected:
            raise RegistryError(
                f"the parent of version {self.version} must be {expected}; found {parent}. "
                "Fit the update on the latest version."
            )
        return None if expected is None else self.space.manifest(expected)

    def _tables(self) -> list[EmbeddingTable]:
        if not any(name == MODEL or name.startswith("tables/") for name in self._staged.complete):
            raise RegistryError(
                f"version {self.version} of {self.space.name} has neither a model nor a table "
                "staged; write one before publishing."
            )
        return self._staged.tables()

    def _map_shape(self) -> tuple[int, ...] | None:
        if BACKWARD not in self._staged.complete:
            return None
        path = self._staged.path(BACKWARD)
        return decode_map(self._files.read(path), path=path)[0].matrix.shape

    def _claim(self) -> Claim:
        """Take the number for this run."""
        nonce = new_nonce()
        claim = self._log.take(self.run_id, nonce=nonce)
        if claim.nonce == nonce:
            return claim
        self._published()  # the other run may have finished meanwhile
        raise VersionExistsError(
            self._lost(f"{claim.holder} claimed it at {claim.time} and has not finished")
            + " If that run is dead, start it again on the same host to finish it, or free the "
            f"number with Space.release_claim({self.version}); `backstay gc --yes` does so after a "
            "day."
        )
