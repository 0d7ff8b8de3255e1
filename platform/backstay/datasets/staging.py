"""A folder that appears whole or not at all."""

import fcntl
import glob
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backstay.errors import BackstayError, UsageError

logger = logging.getLogger("backstay.datasets")


def check_target(out: Path) -> None:
    """Refuse a target that is anything but absent or an empty folder."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise UsageError(
            f"{out} is there already and not empty; nothing is ever overwritten. "
            "Name another folder, or remove this one first."
        )


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A hidden sibling of `out` that becomes `out` at the end, or goes away on an error."""
    out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a link in place of out
    check_target(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.partial-"
    for left in out.parent.glob(f"{glob.escape(prefix)}*"):
        remove_if_dead(left)
    folder = out.parent / f"{prefix}{uuid.uuid4().hex}"
    folder.mkdir()
    # Held while this process lives: the next writer tells a killed writer's folder by its free lock
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
        try:
            folder.rename(out)
        except OSError as error:
            check_target(out)
            raise BackstayError(f"{out} can't be written: {error}.") from error
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def remove_if_dead(folder: Path) -> None:
    """Remove a staging folder whose writer has ended without doing so."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # its writer lives
    else:
        logger.info("removing %s, which a killed writer left", folder)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
