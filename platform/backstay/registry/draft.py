"""A draft of a version: staged out of readers' sight, then published whole or not at all.

`publish` claims the number, places the staged files, and creates the manifest last. Killed at any
point, it leaves no version; the same run does it again from the start.
"""

import logging
from collections.abc import Iterable, Mapping

import numpy as np

import backstay
from backstay.compat.maps import BackwardMap
from backstay.errors import InputError, MapMismatchError, RegistryError, VersionExistsError
from backstay.registry.manifest import (
    BACKWARD,
    CLAIM,
    FIT_REPORT,
    MANIFEST,
    METRICS,
    MODEL,
    DatasetEntry,
    EntityEntry,
    Manifest,
    check_name,
    now,
)
from backstay.registry.space_files import SpaceFiles, holder_name
from backstay.registry.staging import StagedFiles
from backstay.registry.table_writer import write_parts
from backstay.registry.tables import Batch, EmbeddingTable, open_parts
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
        self._staged.write(BACKWARD, encode_map(backward))

    def write_table(
        self, entity: str, batches: Iterable[Batch], *, part_rows: int | None = None
    ) -> None:
        """Stage the table of an entity; `batches` and errors as in `write_table_parts`."""
        folder = f"tables/{check_name(entity, what='an entity')}"
        self._staged.forget(folder)
        written = write_parts(
            self._files,
            self._staged.path(folder),
            batches,
            space=self.space.name,
            entity=entity,
            version=self.version,
            part_rows=part_rows,
        )
        self._files.sync(self._staged.path(folder))
        self._staged.record({f"{folder}/{name}": entry for name, entry in written.files.items()})
        _log.info("staged %d rows of %s in %d parts", written.rows, entity, len(written.files))

    def write_metrics(self, metrics: Mapping[str, object]) -> None:
        """Stage the metrics, a JSON object."""
        self._staged.write(METRICS, canonical_json(dict(metrics), what="metrics"))

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
        dim = self._dim(dim, tables=tables, previous=previous)
        manifest = Manifest(
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
        )
        data = manifest.to_json()
        claim = self._claim()
        self._place()
        if self._files.read(self._target(CLAIM)) != claim:
            raise VersionExistsError(self._lost("its claim was released while it was publishing"))
        if not self._files.create(self._target(MANIFEST), data):
            raise VersionExistsError(self._lost("another run has just published it"))
        _log.info("published %s version %d", self.space.name, self.version)
        self._staged.clear()
        return Manifest.from_json(data)

    def discard(self) -> None:
        """Remove all staged files, and this run's unfinished claim on the number."""
        claim = self.space.claim(self.version)
        if claim and claim.run_id == self.run_id:
            self.space.release_claim(self.version, force=True)
        self._staged.clear()

    def _target(self, name: str) -> str:
        return self.space.path(self.version, name)

    def _published(self) -> Manifest | None:
        """The manifest if this run has published; VersionExistsError if another run has."""
        if not self._files.exists(self._target(MANIFEST)):
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
        versions = self.space.versions()
        if self.version in versions:
            self._published()  # by another, since we looked: VersionExistsError
        next_ = versions[-1] + 1 if versions else 0
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
        entities = sorted(
            {n.split("/")[1] for n in self._staged.complete if n.startswith("tables/")}
        )
        return [
            open_parts(
                self._files,
                tuple(
                    self._staged.path(n)
                    for n in sorted(self._staged.complete)
                    if n.startswith(f"tables/{entity}/")
                ),
                space=self.space.name,
                version=self.version,
                entity=entity,
            )
            for entity in entities
        ]

    def _dim(
        self, dim: int | None, *, tables: list[EmbeddingTable], previous: Manifest | None
    ) -> int:
        """D_k; InputError unless the staged tables and map agree on it."""
        dims = {f"table {table.entity}": table.dim for table in tables}
        if BACKWARD in self._staged.complete and previous:
            path = self._staged.path(BACKWARD)
            shape = decode_map(self._files.read(path), path=path).matrix.shape
            if shape[0] != previous.dim:
                raise MapMismatchError(
                    f"the backward map of version {self.version} must have {previous.dim} rows, "
                    f"the dimension of version {previous.version}; found shape {shape}."
                )
            dims["backward map"] = shape[1]
        if dim is not None:
            dims["dim"] = dim
        if len(set(dims.values())) != 1:
            found = ", ".join(f"{what} {value}" for what, value in dims.items()) or "none"
            raise InputError(
                f"version {self.version} of {self.space.name} must have one dimension; "
                f"found {found}."
            )
        return next(iter(dims.values()))

    def _claim(self) -> bytes:
        """Take the number for this run; the claim's bytes."""
        claim = self.space.take_claim(self.version, run_id=self.run_id)
        if isinstance(claim, bytes):
            return claim
        self._published()  # the other run may have finished meanwhile
        raise VersionExistsError(
            self._lost(f"{holder_name(claim)} claimed it at {claim.time} and has not finished")
            + " If that run is dead, start it again to finish it, or free the number with "
            f"Space.release_claim({self.version})."
        )

    def _place(self) -> None:
        folder = self._target("")
        for name in self._files.find(folder):
            if name != CLAIM and name not in self._staged.complete:
                self._files.remove(self._target(name))
        for name, entry in self._staged.complete.items():
            self._files.place(self._staged.path(name), self._target(name))
            _log.debug("placed %s, %d bytes", name, entry.size)
        sizes = self._files.find(folder)
        for name, entry in self._staged.complete.items():
            if sizes.get(name) != entry.size:
                raise RegistryError(
                    f"{self._staged.path(name)} should have {entry.size} bytes; found "
                    f"{sizes.get(name)}. Write it anew and publish again."
                )
        self._files.sync(folder)
