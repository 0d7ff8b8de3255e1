"""New folders that appear whole or not at all.

Locally the files gather in a hidden folder beside the target, which one rename turns into the
target:

    .<name>.<random>.partial/lock      held while the writer lives
                             content/  becomes the target

An object store has no rename. Files go where they belong, and the empty object `_SUCCESS`, written
last, marks the folder as whole.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from uuid import uuid4

from backstay.errors import InputError
from backstay.storage.atomic import sync_folder, sync_tree
from backstay.storage.files import HALF_WRITTEN, Files, HashedFile, open_files
from backstay.storage.locks import LockedError, locked

_log = logging.getLogger("backstay.storage")

MARKER = "_SUCCESS"
_TEMPORARY = HALF_WRITTEN


@dataclass(frozen=True, kw_only=True)
class NewFolder:
    """A folder being written. Can be pickled, so that other processes write parts of it."""

    files: Files  # where to write: the hidden folder, or the target itself on an object store
    target: str

    @property
    def path(self) -> Path:
        """The hidden local folder to write into."""
        return Path(self.files.root)

    @contextmanager
    def part(self, name: str) -> Iterator[HashedFile]:
        """A file to write; it gets its name when it is whole.

        Two processes may write the same part at once, where the first was thought dead.
        """
        if not self.files.is_local:
            with self.files.writer(name) as sink:
                yield sink
            return
        temporary = f"{_TEMPORARY}{uuid4().hex}"
        with self.files.writer(temporary) as sink:
            yield sink
        Path(self.files.full(temporary)).replace(self.files.full(name))

    def check_parts(self, parts: Mapping[str, int]) -> None:
        """Refuse to go on unless all `parts`, name -> size in bytes, have arrived here."""
        found = self.files.find("")
        lost = sorted(name for name, size in parts.items() if found.get(name) != size)
        if lost:
            raise InputError(
                f"{self.target} lacks {len(lost)} of {len(parts)} parts that workers wrote, such "
                f"as {lost[0]}. Workers on other machines need an output that all of them see: a "
                "shared folder or an object store's URL."
            )


@contextmanager
def new_folder(
    target: str | Path, *, storage_options: Mapping[str, object] | None = None
) -> Iterator[NewFolder]:
    """Publish what the block writes as the folder `target`; after an error nothing of it stays.

    Hidden folders that killed writers of the same target left are removed first.

    Args:
        target: A path or fsspec URL. It must not exist, or be an empty folder.
        storage_options: For the fsspec file system.

    Raises:
        InputError: There is something at `target`, before or after the block.
    """
    files = open_files(target, storage_options=storage_options)
    if files.find("") or files.fs.isfile(files.root):
        raise InputError(
            f"{target} is not empty; name a new folder for the output, or remove what is there."
        )
    if files.is_local:
        with _hidden(Path(files.root)) as content:
            yield NewFolder(files=open_files(content), target=str(target))
            _publish(content, Path(files.root))
        return
    try:
        yield NewFolder(files=files, target=str(target))
        files.write(MARKER, b"")
    except BaseException:
        files.remove("")
        raise


def remove_abandoned(parent: Path, *, name: str | None = None) -> None:
    """Remove the hidden folders that killed writers left in `parent`; by default, of any target."""
    for hidden in parent.glob(f".{'*' if name is None else escape(name)}.*.partial"):
        try:
            with locked(hidden / "lock", wait=False):
                _log.warning("removing %s, which a killed writer left behind", hidden)
                shutil.rmtree(hidden, ignore_errors=True)
        except (LockedError, FileNotFoundError):
            continue  # its writer is alive, or someone else has removed it


@contextmanager
def _hidden(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent, name=target.name)
    hidden = target.parent / f".{target.name}.{uuid4().hex}.partial"
    content = hidden / "content"
    content.mkdir(parents=True)
    try:
        with locked(hidden / "lock"):
            yield content
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _publish(content: Path, target: Path) -> None:
    for half_written in content.glob(f"{_TEMPORARY}*"):
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
