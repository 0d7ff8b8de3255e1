"""The record of a compaction: leads from a delta's folder to the whole table beside it.

versions/<k>/tables/<entity>/_compacted.json      created exclusively
                             full-<attempt>/part-*.parquet, _table.json
"""

import re
from dataclasses import dataclass

from pydantic import TypeAdapter

from backstay.errors import CorruptError
from backstay.storage.documents import parse_sealed
from backstay.storage.files import FileDigest, Files

COMPACTED = "_compacted.json"
FULL = re.compile(r"full-[0-9a-f]{12}")
"""The folder of a compacted table."""


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """The content of `_compacted.json`."""

    format: int = 1
    folder: str  # beside this file
    commit: FileDigest  # of the commit file in that folder
    content: str  # hash of the rows, as the delta's commit names it
    compacted: str  # UTC, ISO 8601


_compaction = TypeAdapter(Compaction)


def read_record(files: Files, folder: str) -> Compaction | None:
    """The record of a compaction in a table's folder; CorruptError where it was changed."""
    path = f"{folder}/{COMPACTED}"
    try:
        data = files.read(path)
    except FileNotFoundError:
        return None
    record = parse_sealed(_compaction, data, path=files.full(path))
    if not FULL.fullmatch(record.folder):
        raise CorruptError(f"{files.full(path)} leads to {record.folder!r}. Restore it.")
    return record


def is_compaction(name: str) -> bool:
    """Whether a version's file is part of a compaction; those of abandoned ones are garbage."""
    parts = name.split("/")
    within = parts[2:] if parts[0] == "tables" else []
    return bool(within) and (within == [COMPACTED] or FULL.fullmatch(within[0]) is not None)
