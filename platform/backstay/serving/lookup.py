"""Versioned look-up: the newest table and its chain of maps answer for older versions."""

import logging
import re
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.compat.maps import Vectors
from backstay.errors import (
    BackstayError,
    CorruptError,
    NotFoundError,
    NotReadyError,
    SourceChangedError,
    UsageError,
)
from backstay.registry.store import Registry
from backstay.serving.cache import cache_folder
from backstay.serving.description import SpaceDescription
from backstay.serving.mapped import MappedTable
from backstay.serving.served import ServedSpace

logger = logging.getLogger("backstay.serving")

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_NAMED = 10  # most names in a message
_RETRY_AFTER = 5.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Found:
    """The answer to one look-up."""

    space: str
    entity: str
    version: int  # version whose space the vectors are in
    source_version: int  # version of the table they came from
    fingerprint: str  # of the build of `version`: what a consumer was trained on
    source_fingerprint: str  # of the build of the table
    ids: pa.Array  # (m,) as requested: int64 or large_string
    found: npt.NDArray[np.bool_]  # (m,): whether the table holds each id
    values: npt.NDArray[np.float32]  # (n, D_version): one row per id found, in request order

    @property
    def found_ids(self) -> pa.Array:
        """The ids of the rows, (n,)."""
        return self.ids.filter(pa.array(self.found))

    @property
    def missing(self) -> pa.Array:
        """The ids that were not found, in request order."""
        return self.ids.filter(pa.array(~self.found))


class Lookup:
    """Answers look-ups from a registry's newest tables. Threads can share it.

    The constructor copies the newest table of each entity into `cache`, if it is not there yet (see
    `backstay.serving.mapped`). `watch` then follows the registry. Each request is answered from one
    snapshot, even if a version is published meanwhile.
    """

    def __init__(self, registry: Registry | str, *, cache: str | Path) -> None:
        self._registry = Registry(registry) if isinstance(registry, str) else registry
        self._cache = cache_folder(cache, self._registry.uri)
        self._spaces: dict[str, ServedSpace] = {}
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
        """Refresh every `seconds` in a thread until closed. Failures are logged and retried."""

        def loop() -> None:
            while not self._closed.wait(seconds):
                try:
                    self.refresh()
                except (BackstayError, OSError) as error:
                    logger.warning("the registry can't be read; serving the last state: %s", error)

        self._watcher = threading.Thread(target=loop, name="backstay-watch", daemon=True)
        self._watcher.start()

    @property
    def watching(self) -> bool:
        """Whether the watching thread is alive."""
        return self._watcher is not None and self._watcher.is_alive()

    @property
    def failures(self) -> dict[str, str]:
        """Spaces that could not be refreshed, and why. They still answer from their last state."""
        return dict(self._failures)

    def refresh(self) -> list[str]:
        """Load what was published or retired since; return the names of the changed spaces."""
        with self._refreshing:
            names = self._registry.spaces()
            changed = [name for name in self._spaces if name not in names]
            served = {name: self._spaces[name] for name in names if name in self._spaces}
            failures = {}
            for name in names:
                try:
                    fresh = ServedSpace.read(
                        self._registry.space(name), cache=self._cache, known=served.get(name)
                    )
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

    def spaces(self) -> list[str]:
        """The names of the served spaces."""
        return sorted(self._spaces)

    def describe(self, space: str) -> SpaceDescription:
        """The versions and entities of a space."""
        return self._served(space).describe()

    def parse_id(self, space: str, entity: str, text: str) -> int | str:
        """An id from a URL, converted to the type of the table's ids; UsageError if that fails."""
        _, (_, table) = self._table(space, entity)
        if table.sorted_ids.type != pa.int64():
            return text
        if not _INTEGER.fullmatch(text):
            raise UsageError(f"ids of {entity!r} of space {space!r} are integers; found {text!r}.")
        return int(text)

    def resolve(
        self, space: str, version: int | str | None = None, *, consumer: str | None = None
    ) -> int:
        """The number of a version, given as a number, an alias or `latest`.

        None: the version that the contract of `consumer` names, else `prod`, else `latest`.
        Raises NotFoundError for an unknown space or alias, NotReadyError if the space can't be
        served yet.
        """
        return self._served(space).resolve(version, consumer=consumer)

    def ready(self) -> dict[str, str]:
        """Spaces that should be served and can't be, and why; empty: the service is ready."""
        return {name: why for name, why in self._failures.items() if name not in self._spaces}

    def vectors(
        self,
        space: str,
        entity: str,
        ids: Sequence[int | str],
        *,
        version: int | str | None = None,
        consumer: str | None = None,
        source: int | None = None,
    ) -> Found:
        """Vectors of `ids` in the space of `version`; see `resolve`.

        `source`: answer from the table of this version and no other.
        Raises NotFoundError for an unknown space, entity or version, MissingMapError if the chain
        to `version` is broken, UsageError for ids of the wrong type, NotReadyError if the table
        can't be read yet, SourceChangedError if the table of `source` can't be read any more.
        """
        served, (present, table) = self._table(space, entity)
        target = served.resolve(version, consumer=consumer)
        if source not in {None, present}:
            raise SourceChangedError(
                f"{entity!r} of space {space!r} is answered from version {present}; the request "
                f"expects version {source}. Repeat all pages of the call.",
                present=present,
            )
        source = present
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
            if not np.isfinite(values).all():  # the product can overflow
                raise CorruptError(
                    f"expected finite vectors from {chain}, found an overflow of float32 for a "
                    f"vector of {entity!r}. Publish a version without such values."
                )
        return Found(
            space=space,
            entity=entity,
            version=target,
            source_version=source,
            fingerprint=served.manifests[target].fingerprint(entity),
            source_fingerprint=served.manifests[source].fingerprint(entity),
            ids=asked,
            found=found,
            values=values,
        )

    def _table(self, space: str, entity: str) -> tuple[ServedSpace, tuple[int, MappedTable]]:
        served = self._served(space)
        if entity not in served.tables:
            raise NotFoundError(
                f"space {space!r} has no entity {entity!r}; it has {_listed(served.tables)}."
            )
        return served, served.tables[entity]

    def _served(self, space: str) -> ServedSpace:
        try:
            return self._spaces[space]
        except KeyError:
            reason = self._failures.get(space)
            if reason:
                raise NotReadyError(
                    f"space {space!r} can't be served: {reason}", retry_after=_RETRY_AFTER
                ) from None
            raise NotFoundError(
                f"there is no space {space!r} with a published version; "
                f"there is {_listed(self._spaces)}."
            ) from None


def _as_ids(ids: Sequence[int | str], type_: pa.DataType, of: str) -> pa.Array:
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


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return (", ".join(map(repr, shown[:_NAMED])) or "none") + more
