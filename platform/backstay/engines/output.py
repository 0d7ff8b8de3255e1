"""Where a distributed writer puts its parts: a folder that is whole or not there.

On a local or shared disk parts gather in a staging folder beside the output, which a rename turns
into the output. An object store has no rename: parts go where they belong, and the empty object
`_SUCCESS`, written last, says that all of them are there.
"""

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

from backstay.errors import InputError
from backstay.registry.files import Files, open_files

_log = logging.getLogger("backstay.convert")

MARKER = "_SUCCESS"
_TEMPORARY = ".tmp-"


@dataclass(frozen=True, kw_only=True)
class Output:
    """An output being written. Can be pickled, so that tasks write their parts."""

    files: Files  # the staging folder, or the output itself on an object store
    final: str  # the output

    @contextmanager
    def part(self, name: str) -> Iterator[Any]:
        """A file to write a part into; it gets its name when it is whole.

        Two tasks may write the same part at once, where the first was thought dead.
        """
        if not self.files.is_local:
            with self.files.writer(name) as sink:
                yield sink
            return
        temporary = f"{_TEMPORARY}{uuid4().hex}"
        with self.files.writer(temporary) as sink:
            yield sink
        Path(self.files.full(temporary)).replace(self.files.full(name))

    def finish(self, parts: Mapping[str, int]) -> None:
        """Publish the output, which consists of `parts`: names and sizes in bytes."""
        found = self.files.find("")
        lost = sorted(name for name, size in parts.items() if found.get(name) != size)
        if lost:
            raise InputError(
                f"{self.final} lacks {len(lost)} of {len(parts)} parts that workers wrote, such as "
                f"{lost[0]}. Workers on other machines need an output that all of them see: a "
                "shared folder or an object store's URL."
            )
        if not self.files.is_local:
            self.files.write(MARKER, b"")
            return
        for half_written in Path(self.files.root).glob(f"{_TEMPORARY}*"):
            half_written.unlink()  # by a worker that was killed
        self.files.settle("")
        try:
            Path(self.files.root).rename(self.final)
        except OSError as error:
            raise InputError(
                f"{self.final} can't be put in place ({error.strerror}); someone else wrote there "
                "meanwhile. Name another folder."
            ) from error
        open_files(Path(self.final).parent).settle("")


@contextmanager
def open_output(output: str) -> Iterator[Output]:
    """An output to write and `finish`; whatever was written goes when it isn't finished.

    Raises InputError where something is there already. Staging folders that killed writers of the
    same output left behind are removed.
    """
    files = open_files(output)
    if files.find("") or files.fs.isfile(files.root):
        raise InputError(
            f"{output} is not empty; name a new folder for the output, or remove what is there."
        )
    if not files.is_local:
        try:
            yield Output(files=files, final=output)
        except BaseException:
            files.remove("")
            raise
        return
    final = Path(files.root)
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(final)
    staging = final.parent / f".{final.name}.{uuid4().hex}.converting"
    staging.mkdir()
    with _locked(staging):
        try:
            yield Output(files=open_files(staging), final=str(final))
        finally:
            open_files(staging).remove("")


def _remove_abandoned(final: Path) -> None:
    for staging in final.parent.glob(f".{escape(final.name)}.*.converting"):
        try:
            with _locked(staging):
                _log.warning("removing %s, which a killed conversion left behind", staging)
                open_files(staging).remove("")
        except BlockingIOError:
            continue  # its writer is alive


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which ends with this process; BlockingIOError if another does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
