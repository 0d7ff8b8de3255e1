"""The labels of a table's vectors, and the refusal to mix vectors of two builds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from shlex import quote
from typing import Self

import pyarrow as pa

from backstay.errors import InputError
from backstay.registry.table_layout import (
    ENTITY,
    FINGERPRINT,
    SPACE,
    VERSION,
    labels_of,
    version_of,
)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the metadata of a table, or of a part, name; None: not named."""

    path: str
    space: str | None = None
    entity: str | None = None
    version: int | None = None
    fingerprint: str | None = None

    @classmethod
    def of(cls, schema: pa.Schema, path: str) -> Self:
        """The labels of a part; InputError where they are not printable, or no version."""
        found: Mapping[bytes, str] = labels_of(schema, path)
        return cls(
            path=path,
            space=found.get(SPACE),
            entity=found.get(ENTITY),
            version=version_of(found, path),
            fingerprint=found.get(FINGERPRINT),
        )

    def __str__(self) -> str:
        mark = self.fingerprint or "none"
        return f"{self.path} is of {self.space} version {self.version}, fingerprint {mark}"


def refuse_mixed(first: Labels, other: Labels, *, registry: str | None = None) -> None:
    """InputError where vectors that belong together are of two spaces, versions or builds.

    Fingerprints are compared where both are of one entity. The message has the command that
    converts the newer vectors; `registry` is named in it.
    """
    if first.entity != other.entity:
        first_mark, other_mark = (replace(each, fingerprint=None) for each in (first, other))
    else:
        first_mark, other_mark = first, other
    differ = [
        name
        for name in ("space", "version", "fingerprint")
        if (one := getattr(first_mark, name)) is not None
        and (two := getattr(other_mark, name)) is not None
        and one != two
    ]
    if differ:
        raise InputError(
            f"{first}; {other}. Vectors of two builds can't be mixed. "
            f"{_way_out(first, other, registry=registry)}"
        )


def _way_out(first: Labels, other: Labels, *, registry: str | None = None) -> str:
    versions = first.version, other.version
    older, newer = sorted((first, other), key=lambda labels: labels.version or 0)
    if first.space != other.space or None in versions or len({*versions}) == 1 or not newer.path:
        return "Take the table of the build that you need."
    words = ["backstay", "convert", "--registry", registry or "REGISTRY"]
    words += ["--space", f"{newer.space}", "--from", f"{newer.version}", "--to", f"{older.version}"]
    stem = newer.path.rstrip("/").removesuffix(".parquet")
    words += ["--input", newer.path, "--output", f"{stem}-v{older.version}"]
    return f"This converts the newer one: `{' '.join(map(quote, words))}`."


def check_labels(
    labels: Mapping[bytes, str],
    path: str,
    *,
    space: str,
    version: int,
    entity: str,
    fingerprint: str | None,
) -> None:
    """InputError where a part is labelled as another space, version, entity or build."""
    expected = {SPACE: space, VERSION: str(version), ENTITY: entity, FINGERPRINT: fingerprint}
    for key, value in expected.items():
        found = labels.get(key, value)
        if value is not None and found != value:
            what = key.decode().removeprefix("backstay.")
            own = Labels(
                path=path,
                space=labels.get(SPACE, space),
                version=version_of(labels, path),
                fingerprint=labels.get(FINGERPRINT),
            )
            wanted = Labels(path="", space=space, version=version, fingerprint=fingerprint)
            raise InputError(
                f"{path} is labelled {what} {found}; expected {what} {value} (fingerprints: "
                f"{own.fingerprint or 'none'}, expected {fingerprint or 'any'}). Vectors of "
                f"different versions can't be mixed. {_way_out(wanted, own)}"
            )
