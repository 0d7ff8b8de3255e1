"""The output of a conversion: parts, the records of those that are done, and the commit.

Locally the work is in the hidden folder `.<name>.<job>.partial` beside the output, which a rename
publishes. An object store has no rename: parts get names of their job and attempt, and the commit
file, created exclusively, lists those that count. After a kill both stay for the same job.

    part-00000.parquet             a part (on an object store, part-00000-<job>-<attempt>.parquet)
    rejected/part-00000.parquet    rows set aside
    _work/<job>/part-00000.json    the record of a part that is done, until the commit (locally in
                                   the hidden folder)
    _table.json                    the commit file, with the report
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from pydantic import TypeAdapter

from backstay.engines.conversion.input import Unreadable
from backstay.errors import BackstayError, InputError
from backstay.registry.table_commit import COMMIT, TableCommit, TablePart, read_commit, write_commit
from backstay.storage.atomic import synced_file
from backstay.storage.documents import canonical_json, parse_document
from backstay.storage.files import HALF_WRITTEN, TEMPORARY, Files, HashedFile, open_files
from backstay.storage.folders import publish_folder, refuse_content, resumable_folder

_log = logging.getLogger("backstay.convert")

REJECTED = "rejected"
_WORK = "_work"


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """The outcome of one part."""

    number: int
    read: int  # rows
    tables: tuple[TablePart, ...] = ()  # one for each target
    rejected: TablePart | None = None
    unreadable: tuple[Unreadable, ...] = ()
    faulty: int = 0  # rows that can't be converted; such a part has no files
    fault: str = ""  # the first of them

    @property
    def set_aside(self) -> int:
        """Rows that went to `rejected/`, or that can't be read."""
        rejected = self.rejected.rows if self.rejected else 0
        return rejected + sum(piece.rows for piece in self.unreadable)

    def files(self, folders: Sequence[str]) -> Iterator[tuple[str, TablePart]]:
        """The path of each file of the part, with its size."""
        for folder, part in zip(folders, self.tables, strict=True):
            yield _in(folder, part.name), part
        if self.rejected:
            yield _in(REJECTED, self.rejected.name), self.rejected


_record = TypeAdapter(PartRecord)


def parse_record(data: bytes, *, path: str) -> PartRecord:
    """A record from its JSON; CorruptError where it is none."""
    return parse_document(_record, data, path=path)


@dataclass(frozen=True, kw_only=True)
class ConvertOutput:
    """Where a conversion writes. Can be pickled, so that other processes write parts."""

    files: Files  # the hidden folder's content, or the target itself on an object store
    work: Files  # where records are
    target: str
    job: str
    folders: tuple[str, ...]  # of each target's table

    @contextmanager
    def part(self, folder: str, number: int) -> Iterator[tuple[str, HashedFile]]:
        """A part to write: its name, and the file; the name is there when the file is whole.

        Two processes may write the same part at once, where the first was thought dead. If the
        output is published meanwhile, the second one fails and leaves nothing.
        """
        name = f"part-{number:05d}.parquet"
        if self.files.is_local:
            whole = Path(self.files.full(_in(folder, name)))
            temporary = whole.with_name(f"{HALF_WRITTEN}{uuid4().hex}")
            with synced_file(temporary) as raw:  # makes no folder: it is gone after publication
                yield name, HashedFile(raw)
            temporary.replace(whole)
            return
        name = f"part-{number:05d}-{self.job[:8]}-{uuid4().hex[:12]}.parquet"
        with self.files.writer(_in(folder, name)) as sink:
            yield name, sink

    def record(self, record: PartRecord) -> PartRecord:
        """Keep the record of a part; the one that counts, if another attempt was first."""
        if self.files.is_local and not Path(self.files.root).exists():
            raise InputError(f"{self.target} was finished by other processes meanwhile.")
        path = f"{self._records}/part-{record.number:05d}.json"
        data = canonical_json(asdict(record), what="a part's record")
        if self.work.create(path, data):
            return record
        first = parse_record(self.work.read(path), path=self.work.full(path))
        kept = {name for name, _ in first.files(self.folders)}
        for name, _ in record.files(self.folders):
            if name not in kept:
                self.files.remove(name)
        return first

    def done(self) -> dict[int, PartRecord]:
        """The parts that an earlier run of the same job has finished."""
        sizes = self.files.find("")
        found = {}
        for name in self.work.find(self._records):
            path = f"{self._records}/{name}"
            record = parse_record(self.work.read(path), path=self.work.full(path))
            if all(sizes.get(file) == part.size for file, part in record.files(self.folders)):
                found[record.number] = record
            else:
                self.work.remove(path)
        return found

    def check(self, records: Sequence[PartRecord]) -> None:
        """Refuse to go on unless the files of all parts have arrived here."""
        sizes = self.files.find("")
        wanted = {f: part.size for record in records for f, part in record.files(self.folders)}
        lost = sorted(name for name, size in wanted.items() if sizes.get(name) != size)
        if lost:
            raise InputError(
                f"{self.target} lacks {len(lost)} of {len(wanted)} parts that workers wrote, such "
                f"as {lost[0]}. Workers on other machines need an output that all of them see: a "
                "shared folder or an object store's URL."
            )

    def commit(self, commits: Sequence[TableCommit], records: Sequence[PartRecord]) -> None:
        """Write the commit file of each target's table; remove what no record lists."""
        for folder, commit in zip(self.folders, commits, strict=True):
            if not self._committed(folder):  # by an earlier run, killed after it
                write_commit(self.files, folder, commit, exclusive=not self.files.is_local)
        if not self.files.is_local:
            self._remove(keep={name for part in records for name, _ in part.files(self.folders)})

    def discard(self) -> None:
        """Remove what this job has written, unless it is committed."""
        if self.files.is_local:
            shutil.rmtree(Path(self.files.root).parent, ignore_errors=True)
        elif not any(map(self._committed, self.folders)):
            self._remove(keep=set())

    def _remove(self, *, keep: set[str]) -> None:
        for name in self.files.find(""):
            if name not in keep and _is_of(self.job, name):
                self.files.remove(name)

    def _committed(self, folder: str) -> bool:
        return finished_job(read_commit(self.files, folder)) == self.job

    @property
    def _records(self) -> str:
        return _WORK if self.files.is_local else f"{_WORK}/{self.job}"


@contextmanager
def converted_output(target: str, *, job: str, folders: tuple[str, ...]) -> Iterator[ConvertOutput]:
    """Hold the output of a job while the block writes it; a local one is published after it.

    After an error that repeating the job would meet again, nothing of it stays. After any other
    its finished parts stay, for the same job.

    Raises:
        InputError: There is something at `target`, or another process works on the same job.
    """
    files = open_files(target)
    if files.is_local:
        with resumable_folder(Path(files.root), key=job[:16]) as hidden:
            for folder in (*folders, REJECTED):
                (hidden / "content" / folder).mkdir(exist_ok=True)
            output = ConvertOutput(
                files=open_files(hidden / "content"),
                work=open_files(hidden),
                target=target,
                job=job,
                folders=folders,
            )
            with _kept_or_discarded(output):
                yield output
                with contextlib.suppress(OSError):
                    (hidden / "content" / REJECTED).rmdir()  # if it is empty
                publish_folder(hidden / "content", Path(files.root))
            shutil.rmtree(hidden, ignore_errors=True)
        return
    _refuse_others(files, target, job)
    output = ConvertOutput(files=files, work=files, target=target, job=job, folders=folders)
    with _kept_or_discarded(output):
        yield output


@contextmanager
def _kept_or_discarded(output: ConvertOutput) -> Iterator[None]:
    try:
        yield
    except BackstayError:
        output.discard()
        raise
    except BaseException:
        done = len(output.done())
        _log.warning("stopped; %d parts are done. The same command goes on from there.", done)
        raise


def finished_job(commit: TableCommit | None) -> str | None:
    """The job that wrote a table, if a conversion did."""
    job = commit.conversion.get("job") if commit and commit.conversion else None
    return job if isinstance(job, str) else None


def _refuse_others(files: Files, target: str, job: str) -> None:
    """InputError where an object-store folder holds files of anything but this job."""
    names = files.find("")
    others = {n.split("/")[1] for n in names if n.startswith(f"{_WORK}/")} - {job}
    if others:
        raise InputError(
            f"{target} holds an unfinished conversion of other input or with other options. Finish "
            "it by its own command, remove the folder, or name another one."
        )
    if not all(_is_of(job, name) or _is_commit_of(files, name, job) for name in names):
        refuse_content(files, target)


def _is_commit_of(files: Files, name: str, job: str) -> bool:
    folder = name.removesuffix(COMMIT).rstrip("/")
    return name.endswith(COMMIT) and finished_job(read_commit(files, folder)) == job


def _is_of(job: str, name: str) -> bool:
    """Whether a file is this job's part or record, or the trial of a conditional put."""
    return f"-{job[:8]}-" in name or name.startswith((f"{_WORK}/{job}/", f"{TEMPORARY}/"))


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}".lstrip("/")
