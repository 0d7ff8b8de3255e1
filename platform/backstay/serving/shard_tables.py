"""What a shard answers to the routers of a service; see `router`."""

from typing import NamedTuple, Protocol

import pyarrow as pa

from backstay.errors import NotFoundError, NotReadyError
from backstay.serving.copies import Key, OpenTable
from backstay.serving.ids import IdArray
from backstay.serving.lookup import Lookup
from backstay.serving.sharding import Rows

_BEHIND_SECONDS = 1.0  # when a request may be repeated for a space that is not taken up yet


class Shape(NamedTuple):
    """Of a table that a shard has opened."""

    id_type: pa.DataType
    dim: int


class Refused(NamedTuple):
    """Why a shard gives no rows of a table."""

    reason: str
    retry_after: float  # seconds
    failed: bool  # the table could not be loaded; otherwise it is being loaded


class Calls(Protocol):
    """Calls of one shard. They raise whatever a dead process or a network raises."""

    def opened(self, key: Key) -> Shape | Refused:
        """See `ShardTables.opened`. Called in threads without an event loop."""

    async def rows(self, key: Key, ids: IdArray) -> Rows | Refused:
        """See `ShardTables.rows`."""


class ShardTables:
    """The tables of a look-up that has a `shard`."""

    def __init__(self, lookup: Lookup) -> None:
        self._shelf = lookup.shelf

    def opened(self, key: Key) -> Shape | Refused:
        """The shape of a table if it is open; otherwise it is loaded in the background."""
        opened = self._open(key)
        if isinstance(opened, Refused):
            return opened
        return Shape(opened.table.sorted_ids.type, opened.table.dim)

    def rows(self, key: Key, ids: IdArray) -> Rows | Refused:
        """Which of `ids`, all of this shard, the table holds, and their rows."""
        opened = self._open(key)
        if isinstance(opened, Refused):
            return opened
        rows, found = opened.table.find(ids)
        values = opened.table.gather(rows)
        if not opened.intact():
            return Refused(f"the copy of {key} has changed on disk", _BEHIND_SECONDS, failed=False)
        return Rows(found, values)

    def _open(self, key: Key) -> OpenTable | Refused:
        try:
            spaces = self._shelf.slot(key.space).spaces()
        except (NotReadyError, NotFoundError):
            spaces = []
        if not spaces:  # the router has its orders a moment before
            return Refused(
                f"it has not read space {key.space!r} yet", _BEHIND_SECONDS, failed=False
            )
        space = next((each for each in spaces if key in each.lasting), spaces[0])
        try:
            return space.opened(key)
        except NotReadyError as error:
            return Refused(str(error), error.retry_after, failed=space.failed(key))
