"""The manifest: describes a published version, with size and hash of every file."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from backstay.errors import CorruptError, RegistryError, UsageError
from backstay.registry.fingerprint import build_id, fingerprint
from backstay.storage.documents import (
    CHECKSUM,
    JsonObject,
    canonical_json,
    first_fault,
    parse_object,
    seal,
)
from backstay.storage.files import FileDigest
from backstay.storage.ids import IdType

FORMAT, DELTA_FORMAT = 2, 3
"""Of the manifest; a reader refuses a newer one. Format 1 has no checksum, build or claim. Format 3
is format 2 with a table that is stored as a delta."""

MANIFEST, RETIRED = "manifest.json", "retired.json"
MODEL, BACKWARD = "model.safetensors", "backward.safetensors"
METRICS, FIT_REPORT, CONTRACTS = "metrics.json", "fit_report.json", "contracts.json"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def is_safe_name(name: str) -> bool:
    """Whether a name read from a file stays within the folder where it is used as a file's name."""
    return (
        bool(name)
        and name.isprintable()
        and not name.startswith(".")
        and not {"/", "\\", ":"}.intersection(name)
    )


def check_name(name: str, *, what: str) -> str:
    """Refuse a name that can't be a folder's on every store; `what` is what it names."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't name {what}: expected letters, digits and -_. with no - or . in front."
        )
    return name


@dataclass(frozen=True, kw_only=True)
class EntityEntry:
    """One embedding table of a version."""

    rows: int
    id_type: IdType


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """What the version was trained on."""

    fingerprint: str  # DatasetInfo.fingerprint
    name: str | None
    # Position on the timeline, 0 to 1, up to which it was seen. An int stays one, for the hash.
    until: float | int | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`. Immutable once it is there."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    format: int = FORMAT
    space: str
    version: int
    run_id: str  # the run that published it
    parent: int | None  # version - 1; None for version 0
    parent_manifest_sha256: str | None
    method: str
    config: JsonObject
    dims: dict[int, int]  # version -> D_version, of this version and all before it
    entities: dict[str, EntityEntry]
    dataset: DatasetEntry
    files: dict[str, FileDigest]  # path within the version's folder
    created: str  # UTC, ISO 8601
    backstay: str  # version of the package that published it
    build: str | None = None  # see `fingerprint.build_id`; None in format 1
    claim: str | None = None  # nonce of the claim under which it was published; None in format 1

    @property
    def dim(self) -> int:
        """D_version."""
        return self.dims[self.version]

    @property
    def sha256(self) -> str:
        """Of the file; the next version's manifest names it."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def fingerprint(self, entity: str | None = None) -> str:
        """The fingerprint of an entity's table, or of the version's space with None."""
        build = self.build or build_id(
            self.space, self.version, self.run_id, self.parent_manifest_sha256
        )
        return fingerprint(self.space, entity, self.version, self.dim, build)

    def parts(self, entity: str) -> tuple[str, ...]:
        """The parts of an entity's table, in row order; of a delta, those of its new rows."""
        prefix = f"tables/{entity}/part-"
        return tuple(
            sorted(
                path for path in self.files if path.startswith(prefix) and path.endswith(".parquet")
            )
        )

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`: equal manifests give equal bytes."""
        fields = asdict(self)
        if self.format == 1:
            del fields["build"], fields["claim"]
            return canonical_json(fields, what="a manifest")
        return seal(fields, what="a manifest")

    @classmethod
    def from_json(cls, data: bytes, *, path: str = "manifest.json") -> "Manifest":
        """Parse the bytes of `manifest.json`; `path` is for messages.

        Raises:
            RegistryError: Its format is newer than this package.
            CorruptError: It is no manifest: a field is missing, unknown or of another type, a name
                in it is unsafe, or a byte was changed.
        """
        try:
            found = _header.validate_json(data).format
            if found > DELTA_FORMAT:
                raise RegistryError(
                    f"{path} has format {found}; this Backstay reads up to {DELTA_FORMAT}. "
                    "Upgrade it."
                )
            fields = parse_object(data, path=path)
            if found > 1:
                fields.pop(CHECKSUM, None)
            manifest = _manifest.validate_json(json.dumps(fields))
        except ValidationError as error:
            raise _corrupt(path, first_fault(error)) from error
        fault = _fault(manifest)
        if fault is None and found > 1 and manifest.to_json() != data:
            fault = "it does not match its own checksum"
        if fault:
            raise _corrupt(path, fault)
        return manifest


@dataclass(frozen=True)
class _Header:
    format: int


def _fault(manifest: Manifest) -> str | None:
    """What makes a manifest unusable though its fields have the right types; None if nothing."""
    names = [manifest.space, *manifest.entities]
    for name in (*names, *(part for path in manifest.files for part in path.split("/"))):
        if not is_safe_name(name):
            return f"expected names of files and folders, found {name!r:.60}"
    if manifest.version not in manifest.dims or min(manifest.dims.values()) < 1:
        return f"expected the dimension of version {manifest.version}, found {manifest.dims}"
    if manifest.parent not in (None, manifest.version - 1):
        return f"expected parent {manifest.version - 1}, found {manifest.parent}"
    return None


def _corrupt(path: str, fault: str) -> CorruptError:
    return CorruptError(
        f"{path} is no manifest ({fault}). It was changed after publishing: restore it from a copy."
    )


_header, _manifest = TypeAdapter(_Header), TypeAdapter(Manifest)


def now() -> str:
    """The time, UTC, as manifests write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
