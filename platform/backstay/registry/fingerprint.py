"""Fingerprints: 16 hexadecimal digits that tell vectors of one build from those of any other.

A build is one publication of one version. Two registries may both hold a version 3 of `movies`;
their vectors must not be mixed, though space, version and dimension agree.
"""

import hashlib
from functools import lru_cache

from backstay.storage.documents import canonical_json

_DIGITS = 16


def build_id(space: str, version: int, run_id: str, parent_manifest_sha256: str | None) -> str:
    """The id of a build, which is known before its files are written."""
    return _short_hash([space, version, run_id, parent_manifest_sha256])


@lru_cache(maxsize=1024)  # each look-up asks for two
def fingerprint(space: str, entity: str | None, version: int, dim: int, build: str) -> str:
    """The fingerprint of vectors: of one entity's table, or of the whole space with None.

    Args:
        space: The space of the vectors.
        entity: Whose vectors they are; None for those of every entity, as a map takes them.
        version: Their version.
        dim: Their dimension D.
        build: From `build_id`; a field of the manifest.
    """
    return _short_hash([space, entity, version, dim, build])


def _short_hash(fields: list[str | int | None]) -> str:
    return hashlib.sha256(canonical_json(fields, what="a fingerprint")).hexdigest()[:_DIGITS]
