"""The manifest: describes a published version, with size and hash of every file."""

import hashlib
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from backstay.errors import CorruptError, RegistryError, UsageError
from backstay.storage.documents import JsonObject, canonical_json, first_fault
from backstay.storage.files import FileDigest
from backstay.storage.ids import IdType

FORMAT = 1
"""Of the manifest; a reader refuses a newer one."""

MANIFEST, CLAIM, RETIRED = "manifest.json", "claim.json", "retired.json"
MODEL, BACKWARD = "model.safetensors", "backward.safetensors"
METRICS, FIT_REPORT = "metrics.json", "fit_report.json"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


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

    @property
    def dim(self) -> int:
        """D_version."""
        return self.dims[self.version]

    @property
    def sha256(self) -> str:
        """Of the file; the next version's manifest names it."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def parts(self, entity: str) -> tuple[str, ...]:
        """The files of an entity's table, in row order."""
        prefix = f"tables/{entity}/"
        return tuple(sorted(path for path in self.files if path.startswith(prefix)))

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`: equal manifests give equal bytes."""
        return canonical_json(asdict(self), what="a manifest")

    @classmethod
    def from_json(cls, data: bytes, *, path: str = "manifest.json") -> "Manifest":
        """Parse the bytes of `manifest.json`; `path` is for messages.

        Raises:
            RegistryError: Its format is newer than this package.
            CorruptError: It is no manifest: a field is missing, unknown or of another type.
        """
        try:
            found = _header.validate_json(data).format
            if found > FORMAT:
                raise RegistryError(
                    f"{path} has format {found}; this Backstay reads up to {FORMAT}. Upgrade it."
                )
            return _manifest.validate_json(data)
        except ValidationError as error:
            raise CorruptError(
                f"{path} is no manifest ({first_fault(error)}). It was changed after publishing: "
                "restore it from a copy."
            ) from error


@dataclass(frozen=True)
class _Header:
    format: int


_header, _manifest = TypeAdapter(_Header), TypeAdapter(Manifest)


def now() -> str:
    """The time, UTC, as manifests write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
