"""The manifest: what a published version is, and the hashes that prove it."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self, cast

from backstay.errors import CorruptError, InputError, RegistryError, UsageError

FORMAT = 1
"""Of the manifest; a reader refuses a newer one."""

MANIFEST, CLAIM, RETIRED = "manifest.json", "claim.json", "retired.json"
MODEL, BACKWARD = "model.safetensors", "backward.safetensors"
METRICS, FIT_REPORT = "metrics.json", "fit_report.json"

IdType = Literal["string", "int64"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check_name(name: str, *, what: str) -> str:
    """Refuse a name that can't be a folder's on every store; `what` is what it names."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't name {what}: expected letters, digits and -_. with no - or . in front."
        )
    return name


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a version."""

    size: int  # bytes
    sha256: str  # hexadecimal


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
    until: float | None  # position on the timeline, 0 to 1, up to which it was seen


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` says. Immutable once it is there."""

    space: str
    version: int
    run_id: str  # the run that published it
    parent: int | None  # version - 1; None for version 0
    parent_manifest_sha256: str | None
    method: str
    config: dict[str, Any]
    dims: dict[int, int]  # version -> D_version, of this version and all before it
    entities: dict[str, EntityEntry]
    dataset: DatasetEntry
    files: dict[str, FileEntry]  # path within the version's folder
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
        return canonical_json({"format": FORMAT, **asdict(self)}, what="a manifest")

    @classmethod
    def from_json(cls, data: bytes, *, path: str = "manifest.json") -> Self:
        """Parse the bytes of `manifest.json`; `path` is for messages."""
        try:
            raw = json.loads(data)
            found = raw.pop("format")
            if found > FORMAT:
                raise RegistryError(
                    f"{path} has format {found}; this Backstay reads up to {FORMAT}. Upgrade it."
                )
            raw["dims"] = {int(version): dim for version, dim in raw["dims"].items()}
            raw["entities"] = {k: EntityEntry(**v) for k, v in raw["entities"].items()}
            raw["dataset"] = DatasetEntry(**raw["dataset"])
            raw["files"] = {k: FileEntry(**v) for k, v in raw["files"].items()}
            return cls(**raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptError(
                f"{path} is no manifest ({error!r}). It was changed after publishing: "
                "restore it from a copy."
            ) from error


def now() -> str:
    """The time, UTC, as manifests write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def canonical_json(value: Any, *, what: str) -> bytes:
    """Sorted, indented UTF-8 JSON; InputError where `value`, named `what`, has no JSON form."""
    try:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} must be JSON: finite numbers, strings, lists, dicts ({error})."
        ) from error
    return (text + "\n").encode()


def parse_object(data: bytes, *, path: str) -> dict[str, Any]:
    """A JSON object out of a stored file; CorruptError where it is none."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise CorruptError(f"{path} is no JSON ({error}); restore it from a copy.") from error
    if not isinstance(value, dict):
        raise CorruptError(f"{path} must hold a JSON object; found {type(value).__name__}.")
    return cast("dict[str, Any]", value)
