"""Compaction: a table that is stored as a delta becomes a whole table, out of readers' sight.

    versions/<k>/tables/<entity>/full-<attempt>/part-*.parquet, _table.json
                                 _compacted.json      created exclusively: leads to the folder

The manifest and its files stay as they are. The rows must have the hash that was published with the
delta. Killed half-way, it leaves a folder that nothing leads to; `gc` removes it.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal
from uuid import uuid4

from backstay.errors import CorruptError
from backstay.registry.compacted import COMPACTED, Compaction
from backstay.registry.content import ContentHash
from backstay.registry.manifest import Manifest, now
from backstay.registry.store import Space
from backstay.registry.stored import read_compacted, read_published
from backstay.registry.table_commit import COMMIT, TableDelta
from backstay.registry.table_writer import write_parts
from backstay.storage.documents import seal

_log = logging.getLogger("backstay.registry")


@dataclass(frozen=True, kw_only=True)
class CompactedTable:
    """A table that was stored as a delta, and what became of it."""

    version: int
    entity: str
    base: int  # the version that it was a delta of
    rows: int
    written: int  # bytes of the whole table; in a dry run, about as many
    state: Literal["compacted now", "compacted before", "would be compacted"]


def compact(space: Space, version: int, *, dry_run: bool = False) -> list[CompactedTable]:
    """Write every table of a version that is stored as a delta as a whole table.

    Repeated, it does nothing more. Of two at once, the first to finish wins; the other removes what
    it wrote.

    Raises:
        NotFoundError: There is no such version, or it is retired.
        CorruptError: The delta or its base was changed after it was published.
    """
    manifest = space.manifest(version)
    if manifest.entities:
        space.refuse_retired(version, what="tables")
    return list(_compacted(space, manifest, dry_run=dry_run))


def _compacted(space: Space, manifest: Manifest, *, dry_run: bool) -> Iterator[CompactedTable]:
    for entity in sorted(manifest.entities):
        commit = read_published(space, manifest, entity)
        if commit is None or commit.delta is None:
            continue
        state: Literal["compacted now", "compacted before", "would be compacted"]
        if (before := read_compacted(space, manifest, entity)) is not None:
            written, state = sum(part.size for part in before[0].parts), "compacted before"
        elif dry_run:
            written = commit.rows * 4 * commit.dim
            state = "would be compacted"
        else:
            written, state = _compact(space, manifest, entity, commit.delta), "compacted now"
        yield CompactedTable(
            version=manifest.version,
            entity=entity,
            base=commit.delta.base,
            rows=commit.rows,
            written=written,
            state=state,
        )


def _compact(space: Space, manifest: Manifest, entity: str, delta: TableDelta) -> int:
    """Write the whole table and the record that leads to it; its bytes."""
    files, content = space.files, ContentHash()
    table = space.table(manifest.version, entity)
    name = f"full-{uuid4().hex[:12]}"
    place = space.path(manifest.version, f"tables/{entity}")
    folder = f"{place}/{name}"
    try:
        written = write_parts(
            files,
            folder,
            content.through(table.batches()),
            space=space.name,
            entity=entity,
            version=manifest.version,
            build=manifest.build,
        )
        _check_content(content, delta, what=f"{entity} in {space.name} version {manifest.version}")
        files.sync(folder)
        record = Compaction(
            folder=name,
            commit=written.files[COMMIT],
            content=delta.content,
            compacted=now(),
        )
        data = seal(asdict(record), what="a compaction")
        space.refuse_retired(manifest.version, what=f"table of {entity}")
        first = files.create(f"{place}/{COMPACTED}", data)
    except BaseException:
        files.remove(folder)
        raise
    if not first:
        files.remove(folder)
        _log.info("another process has just compacted %s version %d", entity, manifest.version)
    space.renew_markers()
    return sum(digest.size for name, digest in written.files.items() if name != COMMIT)


def _check_content(found: ContentHash, delta: TableDelta, *, what: str) -> None:
    if found.hexdigest() != delta.content:
        raise CorruptError(
            f"the table of {what} should have rows with the hash {delta.content}; found "
            f"{found.hexdigest()}. Run `backstay verify` and restore what it names from a copy."
        )
