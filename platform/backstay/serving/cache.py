"""Local folders for copies of tables."""

import hashlib
from pathlib import Path

from platformdirs import user_cache_path


def default_cache() -> str:
    """The default folder for copies of tables: $XDG_CACHE_HOME/backstay or ~/.cache/backstay."""
    return str(user_cache_path("backstay"))


def cache_folder(cache: str | Path, registry: str) -> Path:
    """The folder in `cache` for the tables of one registry, a path or URL."""
    return Path(cache) / hashlib.sha256(registry.encode()).hexdigest()[:16]
