"""Versioned look-up: the newest table answers for every version its chain of maps reaches."""

import hashlib
import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.compat.maps import BackwardMap, Vectors, compose
from backstay.errors import (
    BackstayError,
    CorruptError,
    MissingMapError,
    NotFoundError,
    UsageError,
)
from backstay.registry.manifest import Manifest
from backstay.registry.store import Registry, Space
from backstay.serving.mapped import MappedTable, open_cached

logger = logging.getLogger("backstay.serving")

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_NAMED = 10  # how many alternatives a message lists


@dataclass(frozen=True)
class Found:
    """The answer to one look-up, from one version's table."""

    space: str
    entity: str
    version: int  # whose space the vectors are in
    source_version: int  # whose table they came from
    ids: pa.Array  # (m,) as asked for: int64 or large_string
    found: npt.NDArray[np.bool_]  # (m,): which of them the table holds
    values: npt.NDArray[np.float32]  # (n, D_version): one row per id found, in request order

    @property
    def found_ids(self) -> pa.Array:
        """The ids of the rows, (n,)."""
        return self.ids.filter(pa.array(self.found))

    @property
    def missing(self) -> pa.Array:
        """The ids that the table does not hold, in request order."""
        return self.ids.filter(pa.array(~self.found))


@dataclass(frozen=True)
class _Served:
    """A space as it was published at one moment. Never changed: a refresh makes another."""

    manifests: dict[int, Manifest]  # ascending
    maps: dict[int, BackwardMap]  # k -> B_k, of every version that has one
    tables: dict[str, tuple[int, MappedTable]]  # entity -> the newest table and its version
    chains: dict[tuple[int, int], BackwardMap] = field(default_factory=dict)  # composed on demand

    @property
    def latest(self) -> int:
        return max(self.manifests)

    def chain(self, source: int, target: int) -> BackwardMap:
        if (source, target) not in self.chains:
            steps = range(target + 1, source + 1)
            for k in steps:
                if k not in self.maps:
                    raise MissingMapError(
                        f"version {target} can't be read from version {source}: version {k} "
                        f"has no backward map. Versions {k} to {source} can; for an older one, "
                        f"publish a version trained with maps."
                    )
            self.chains[source, target] = compose([self.maps[k] for k in steps])
        return self.chains[source, target]


class Lookup:
    """Answers look-ups from a registry's newest tables. Safe to call from many threads.

    Opening it copies the newest table of every space and entity into `cache`
    (see `backstay.serving.mapped`). `watch` follows the registry from then on. A request is
    answered from one snapshot, whatever is published meanwhile.
    """

    def __init__(self, registry: Registry | str, *, cache: str | Path) -> None:
        self._registry = Registry(registry) if isinstance(registry, str) else registry
        root = hashlib.sha256(str(self._registry.uri).encode()).hexdigest()[:16]
        self._cache = Path(cache) / root
        self._spaces: dict[str, _Served] = {}
        self._failures: dict[str, str] = {}
        self._refreshing = threading.Lock()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None
        self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._watcher:
            self._watcher.join()

    def watch(self, *, seconds: float) -> None:
        """Refresh every `seconds` in a thread, until closed. A failure is logged and retried."""

        def loop() -> None:
            while not self._closed.wait(seconds):
                try:
                    self.refresh()
                except (BackstayError, OSError) as error:
                    logger.warning("the registry can't be read, serving goes on: %s", error)

        self._watcher = threading.Thread(target=loop, name="backstay-watch", daemon=True)
        self._watcher.start()

    @property
    def watching(self) -> bool:
        """Whether the watching thread is alive."""
        return self._watcher is not None and self._watcher.is_alive()

    @property
    def failures(self) -> dict[str, str]:
        """Spaces whose newest state can't be served, and why; they answer from the one before."""
        return dict(self._failures)

    def refresh(self) -> list[str]:
        """Take up what was published or retired since; the names of the spaces that changed."""
        with self._refreshing:
            names = self._registry.spaces()
            changed = [name for name in self._spaces if name not in names]
            served = {name: self._spaces[name] for name in names if name in self._spaces}
            failures = {}
            for name in names:
                try:
                    fresh = self._read(self._registry.space(name), served.get(name))
                except (BackstayError, OSError, pa.ArrowException) as error:
                    failures[name] = str(error)
                    if self._failures.get(name) != str(error):
                        logger.error("space %s can't be refreshed: %s", name, error)  # noqa: TRY400
                    continue
                if fresh is None:
                    served.pop(name, None)
                elif fresh is not served.get(name):
                    served[name] = fresh
                    changed.append(name)
                    logger.info("space %s: serving version %d", name, fresh.latest)
            self._spaces, self._failures = served, failures
        return changed

    def _read(self, space: Space, known: _Served | None) -> _Served | None:
        versions = space.versions()
        if not versions:
            return None
        newest = space.manifest(versions[-1])
        if known and versions == list(known.manifests) and newest == known.manifests[versions[-1]]:
            return known
        manifests = {k: space.manifest(k) for k in versions[:-1]} | {versions[-1]: newest}
        owners = {
            entity: k
            for k in versions
            for entity in manifests[k].entities
            if k == versions[-1] or not space.retired(k)
        }
        return _Served(
            manifests=manifests,
            maps=_maps(space, upto=versions[-1]),
            tables={
                entity: (k, self._open(space, manifest=manifests[k], entity=entity))
                for entity, k in sorted(owners.items())
            },
        )

    def _open(self, space: Space, *, manifest: Manifest, entity: str) -> MappedTable:
        return open_cached(
            space.table(manifest.version, entity),
            folder=self._cache / manifest.space / entity,
            version=manifest.version,
            manifest_hash=manifest.sha256,
        )

    def spaces(self) -> list[str]:
        """The names of the spaces that are served."""
        return sorted(self._spaces)

    def describe(self, space: str) -> dict[str, Any]:
        """What is served of a space, ready for JSON: versions and how far each entity reaches."""
        served = self._served(space)
        return {
            "space": space,
            "latest": served.latest,
            "versions": [
                {
                    "version": k,
                    "dim": manifest.dim,
                    "method": manifest.method,
                    "created": manifest.created,
                    "entities": {name: entry.rows for name, entry in manifest.entities.items()},
                }
                for k, manifest in served.manifests.items()
            ],
            "entities": {
                entity: {
                    "rows": len(table.rows),
                    "id_type": "int64" if table.sorted_ids.type == pa.int64() else "string",
                    "source_version": source,
                    "versions": _reachable(served, source),
                }
                for entity, (source, table) in served.tables.items()
            },
        }

    def parse_id(self, space: str, entity: str, text: str) -> int | str:
        """An id out of a URL: an integer where the table's ids are; UsageError where it is none."""
        _, (_, table) = self._table(space, entity)
        if table.sorted_ids.type != pa.int64():
            return text
        if not _INTEGER.fullmatch(text):
            raise UsageError(f"ids of {entity!r} of space {space!r} are integers; found {text!r}.")
        return int(text)

    def vectors(
        self,
        space: str,
        entity: str,
        ids: Sequence[int] | Sequence[str],
        *,
        version: int | None = None,
    ) -> Found:
        """Vectors of `ids` in the space of `version`, by default of the table's own.

        Raises NotFoundError for an unknown space, entity or version, MissingMapError where the
        chain to `version` is broken, UsageError for ids of the wrong type.
        """
        served, (source, table) = self._table(space, entity)
        target = source if version is None else version
        if not 0 <= target <= source:
            raise NotFoundError(
                f"{entity!r} of space {space!r} has versions 0 to {source}; found {target}. "
                "Ask for one of those, or for `latest`."
            )
        asked = _as_ids(ids, table.sorted_ids.type, f"{entity!r} of space {space!r}")
        rows, found = table.find(asked)
        values = table.gather(rows)
        if target != source:
            chain = served.chain(source, target)
            values = chain.convert(Vectors(space, source, values)).values
            if not np.isfinite(values).all():  # finite factors can overflow
                raise CorruptError(f"{chain} takes a vector of {entity!r} beyond float32.")
        return Found(space, entity, target, source, asked, found, values)

    def _table(self, space: str, entity: str) -> tuple[_Served, tuple[int, MappedTable]]:
        served = self._served(space)
        if entity not in served.tables:
            raise NotFoundError(
                f"space {space!r} has no entity {entity!r}; it has {_listed(served.tables)}."
            )
        return served, served.tables[entity]

    def _served(self, space: str) -> _Served:
        try:
            return self._spaces[space]
        except KeyError:
            reason = self._failures.get(space)
            raise NotFoundError(
                f"space {space!r} can't be served: {reason}" if reason else
                f"there is no space {space!r} with a published version; "
                f"there is {_listed(self._spaces)}."
            ) from None  # fmt: skip


def _maps(space: Space, *, upto: int) -> dict[int, BackwardMap]:
    maps = {}
    for k in range(1, upto + 1):
        try:
            maps[k] = space.backward_map(k)
        except NotFoundError:  # a version without a map, or retired: older ones can't be reached
            continue
    return maps


def _reachable(served: _Served, source: int) -> list[int]:
    """The versions that a table of version `source` answers for, ascending."""
    oldest = source
    while oldest in served.maps:
        oldest -= 1
    return list(range(oldest, source + 1))


def _as_ids(ids: Sequence[int] | Sequence[str], type_: pa.DataType, of: str) -> pa.Array:
    expected = int if type_ == pa.int64() else str
    for id_ in ids:
        if type(id_) is not expected:
            raise UsageError(
                f"ids of {of} are {'integers' if expected is int else 'strings'}; found {id_!r}."
            )
    try:
        return pa.array(ids, type_)
    except (OverflowError, pa.ArrowInvalid, UnicodeEncodeError) as error:
        what = "within 64 bits" if expected is int else "valid Unicode"
        raise UsageError(f"ids of {of} must be {what}: {error}.") from error


def _listed(names: Any) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return (", ".join(map(repr, shown[:_NAMED])) or "none") + more
