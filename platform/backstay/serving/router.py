"""Answers look-ups from the shards of tables that are divided by id; see `sharding`.

The router decides which table answers, asks each shard for the rows of its ids, all at the same
time, and computes the product with the chain of maps itself. It sends each shard the key of the
table, which names one build: no answer mixes two, whenever the shards switch.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from backstay.errors import NotReadyError, ServiceError
from backstay.registry.store import Registry
from backstay.serving.copies import Key, OpenTable
from backstay.serving.found import Found
from backstay.serving.ids import IdArray, as_ids
from backstay.serving.lookup import Lookup
from backstay.serving.mapped import MappedTable
from backstay.serving.shard_tables import Calls, Refused, Shape
from backstay.serving.sharding import Positions, Rows, merge, split, take, unanswered
from backstay.serving.shelf import GRACE_SECONDS
from backstay.serving.watcher import READ_SECONDS

logger = logging.getLogger("backstay.serving")

_ANSWER_SECONDS = 5.0  # to wait for a shard's rows; then it is lost
_MISSED_SECONDS = 30.0  # to wait for a shard that does not answer, before a table is used without
_PROBE_SECONDS = 0.5  # between two probes of a lost shard
_OPENING_SECONDS = 0.1  # between two questions whether a shard has opened a table
_INLINE = 64  # ids up to which an answer is computed in the event loop, not in a thread
_SHOWN = 200  # most characters of a reason
_RETRY_SECONDS = 1.0  # when a request for ids of a lost shard may be repeated


class Router(Lookup):
    """A look-up whose tables are on shards. It copies the maps of chains only.

    Args:
        registry: As for `Lookup`, and so are `cache`, `spaces`, `load`, `grace`, `read_seconds`.
        cache: Local folder for copies of maps.
        shards: Calls of each shard.
        answer_seconds: How long to wait for a shard's rows. Then it is lost: requests for its ids
            fail at once, until it answers a probe.
    """

    def __init__(
        self,
        registry: Registry | str,
        *,
        cache: str | Path,
        shards: Sequence[Calls],
        load: bool = True,
        grace: float = GRACE_SECONDS,
        read_seconds: float = READ_SECONDS,
        answer_seconds: float = _ANSWER_SECONDS,
        missed_seconds: float = _MISSED_SECONDS,
    ) -> None:
        self._shards = [_Shard(calls, answer_seconds) for calls in shards]
        self._missed_seconds = missed_seconds
        super().__init__(
            registry,
            cache=cache,
            load=load,
            open_table=self._open,
            part=f"of{len(shards)}.router",
            views_max_bytes=0,
            grace=grace,
            read_seconds=read_seconds,
        )

    @property
    def lost(self) -> dict[int, str]:
        """The shards that don't answer, and why."""
        return {n: shard.lost for n, shard in enumerate(self._shards) if shard.lost}

    async def gather(
        self,
        space: str,
        entity: str,
        ids: Sequence[int | str],
        *,
        version: int | str | None = None,
        consumer: str | None = None,
        source: int | None = None,
        partial: bool = False,
    ) -> Found:
        """See `Lookup.vectors`. `partial`: leave out the ids of lost shards.

        Without `partial`, NotReadyError if a shard that holds one of the ids can't answer.
        """
        answering = self.answering(space, entity, version, consumer=consumer, source=source)
        table = answering.opened.table
        asked = as_ids(ids, table.sorted_ids.type, of=f"{entity!r} of space {space!r}")
        places = split(asked, len(self._shards))
        answers = await asyncio.gather(
            *(self._shards[n].rows(answering.key, take(asked, at)) for n, at in places.items())
        )
        parts = dict(zip(places, answers, strict=True))
        refused = {n: part for n, part in parts.items() if isinstance(part, Refused)}
        if refused and not partial:
            raise self._not_ready(refused, places)
        left_out = unanswered(places, refused, count=len(asked)) if partial else None
        rows = {n: part for n, part in parts.items() if isinstance(part, Rows)}

        def answer() -> Found:
            found, values = merge(rows, places, count=len(asked), dim=table.dim)
            return answering.answer(asked, found, values, unanswered=left_out)

        return answer() if len(asked) <= _INLINE else await asyncio.to_thread(answer)

    def _not_ready(
        self, refused: Mapping[int, Refused], places: Mapping[int, Positions]
    ) -> NotReadyError:
        count = sum(len(places[n]) for n in refused)
        of = sum(map(len, places.values()))
        shards = "; ".join(f"shard {n}: {refusal.reason}" for n, refusal in refused.items())
        return NotReadyError(
            f"expected rows from all shards; for {count} of {of} ids, found none ({shards}). "
            "Repeat the request, or allow a partial answer.",
            retry_after=max(refusal.retry_after for refusal in refused.values()),
        )

    def _open(self, key: Key) -> OpenTable:
        """Wait until the shards have opened a table; it has no rows here.

        A shard that does not answer is waited for only for a while, so that the router can give
        partial answers. Raises ServiceError if a shard could not load the table.
        """
        shapes = [shape for shard in self._shards if (shape := self._shape(shard, key))]
        if not shapes:
            raise ServiceError("no shard answers. Check that their processes run.")
        id_type, dim = shapes[0]
        no_rows = MappedTable(
            pa.array([], id_type), np.empty(0, np.int64), np.empty((0, dim), np.float32)
        )
        return OpenTable(no_rows, None)

    def _shape(self, shard: "_Shard", key: Key) -> Shape | None:
        """The shape of a table once a shard has opened it; None if the shard does not answer."""
        answered = time.monotonic()
        while True:
            try:
                opened = shard.calls.opened(key)
            except Exception as error:  # noqa: BLE001 - whatever a dead process or network raises
                logger.debug("a shard does not answer: %r", error)
                if time.monotonic() >= answered + self._missed_seconds:
                    return None
            else:
                if isinstance(opened, Shape):
                    return opened
                if opened.failed:
                    raise ServiceError(opened.reason)
                answered = time.monotonic()
            time.sleep(_OPENING_SECONDS)


class _Shard:
    """A shard as a router sees it."""

    def __init__(self, calls: Calls, seconds: float) -> None:
        self.calls = calls
        self.lost = ""  # why
        self._seconds = seconds
        self._probing: asyncio.Task[None] | None = None

    async def rows(self, key: Key, ids: IdArray) -> Rows | Refused:
        """The rows of `ids`, or why there are none."""
        if not self.lost:
            try:
                return await self._rows(key, ids)
            except Exception as error:  # noqa: BLE001 - whatever a dead process or network raises
                self.lost = _reason(error)
                logger.warning("a shard is lost: %s", self.lost)
                self._probing = asyncio.create_task(self._probe(key, ids[:0]))
        return Refused(f"it does not answer ({self.lost})", _RETRY_SECONDS, failed=False)

    async def _rows(self, key: Key, ids: IdArray) -> Rows | Refused:
        """Ask at most twice: the first replica may have died, and another one may be there."""
        async with asyncio.timeout(self._seconds):
            try:
                return await self.calls.rows(key, ids)
            except Exception as error:  # noqa: BLE001 - whatever a dead process or network raises
                logger.debug("asking a shard again after %r", error)
                return await self.calls.rows(key, ids)

    async def _probe(self, key: Key, ids: IdArray) -> None:
        while self.lost:
            await asyncio.sleep(_PROBE_SECONDS)
            try:
                async with asyncio.timeout(self._seconds):
                    await self.calls.rows(key, ids)
            except Exception as error:  # noqa: BLE001 - whatever a dead process or network raises
                self.lost = _reason(error)
            else:
                self.lost = ""
                logger.warning("the shard answers again")


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:_SHOWN]
