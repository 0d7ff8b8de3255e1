"""New local folders that appear whole or not at all.

The files gather in a hidden folder beside the target, which one rename turns into the target:

    .<name>.<key>.partial/lock      held while the writer lives
                          content/  becomes the target

An object store has no rename: there a table is the files that its commit file lists.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from uuid import uuid4

from backstay.errors import InputError
from backstay.storage.atomic import sync_folder, sync_tree
from backstay.storage.files import HALF_WRITTEN, Files, open_files
from backstay.storage.locks import LockedError, locked

_log = logging.getLogger("backstay.storage")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Publish what the block writes into a hidden folder as `target`; after an error, nothing.

    Hidden folders that killed writers of the same target left are removed first.

    Args:
        target: Must not exist, or be an empty folder.

    Raises:
        InputError: There is something at `target`, before or after the block.
    """
    refuse_content(open_files(target), target)
    hidden = _hidden(target, key=uuid4().hex)
    try:
        with locked(hidden / "lock"):
            yield hidden / "content"
            publish_folder(hidden / "content", target)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def resumable_folder(target: Path, *, key: str) -> Iterator[Path]:
    """Hold the hidden folder of `target` that belongs to `key`; the files go into its `content`.

    It stays after a kill or an error, for the next writer with the same key. The caller publishes
    or removes it.

    Raises:
        InputError: There is something at `target`, or another process holds the hidden folder.
    """
    refuse_content(open_files(target), target)
    hidden = _hidden(target, key=key)
    try:
        with locked(hidden / "lock", wait=False):
            yield hidden
    except LockedError as error:
        raise InputError(
            f"another process is writing {target} from the same input; let it finish or stop it."
        ) from error


def refuse_content(files: Files, target: str | Path) -> None:
    """InputError where there is a file at `target`, or any in it."""
    if files.find("") or files.fs.isfile(files.root):
        raise InputError(
            f"{target} is not empty; name a new folder for the output, or remove what is there."
        )


def publish_folder(content: Path, target: Path) -> None:
    """Make a folder whose files are written the folder `target`, by a rename."""
    for half_written in content.rglob(f"{HALF_WRITTEN}*"):
        half_written.unlink()  # by a worker that was killed
    try:
        sync_tree(content, contents=True)
        content.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise InputError(
            f"{target} can't be put in place ({error.strerror}). Free the disk if it is full; if "
            "someone else wrote there meanwhile, name another folder."
        ) from error


def remove_abandoned(parent: Path, *, name: str | None = None, keep: str | None = None) -> None:
    """Remove the hidden folders that killed writers left in `parent`; by default, of any target.

    `keep`: the key of a folder that stays.
    """
    for hidden in parent.glob(f".{'*' if name is None else escape(name)}.*.partial"):
        if keep is not None and hidden.name.endswith(f".{keep}.partial"):
            continue
        try:
            with locked(hidden / "lock", wait=False):
                _log.warning("removing %s, which a killed writer left behind", hidden)
                shutil.rmtree(hidden, ignore_errors=True)
        except (LockedError, FileNotFoundError):
            continue  # its writer is alive, or someone else has removed it


def _hidden(target: Path, *, key: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent, name=target.name, keep=key)
    hidden = target.parent / f".{target.name}.{key}.partial"
    (hidden / "content").mkdir(parents=True, exist_ok=True)
    return hidden
