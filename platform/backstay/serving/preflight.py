"""Checks before the service starts, so that errors are raised here and not in a replica."""

import logging
import os
import sys
from collections.abc import Collection
from pathlib import Path

from backstay.errors import InputError, UsageError
from backstay.registry.store import Registry
from backstay.serving.access_log import OFF, STDOUT, AccessLog
from backstay.serving.state import listed

logger = logging.getLogger("backstay.serving")


def check_published(uri: str, spaces: Collection[str] | None, *, wait: bool) -> None:
    """InputError unless the registry has a published version of each of these spaces, or of any.

    `wait`: log a warning instead.
    """
    published = Registry(uri).spaces()  # raises here, not in a replica, if it cannot be read
    absent = sorted({*spaces} - {*published}) if spaces else []
    if published and not absent:
        return
    what = f"a published version of {listed(absent)}" if absent else "a published version"
    if wait:
        logger.warning("expected %s, found none in %s; the service waits for it", what, uri)
    else:
        raise InputError(
            f"expected a registry with {what}, found {listed(published)} at {uri}. Check "
            f"{'--space' if absent and published else '--registry'}, publish with `backstay "
            "update`, or use --wait-for-registry to start without it."
        )


def absolute(uri: str | Path) -> str:
    """The URI with an absolute path: replicas have another working directory."""
    return str(uri) if "://" in str(uri) else str(Path(uri).expanduser().absolute())


def log_target(access_log: str) -> str:
    """The access log for replicas, which have another folder and another standard output."""
    if access_log == OFF:
        return OFF
    if access_log == STDOUT and not sys.platform.startswith("linux"):
        raise UsageError("--access-log - needs Linux; found another system. Name a file.")
    path = f"/proc/{os.getpid()}/fd/1" if access_log == STDOUT else access_log
    target = Path(path).expanduser().absolute()
    AccessLog(str(target)).close()  # raises here, not in a replica, if it can't be written
    return str(target)
