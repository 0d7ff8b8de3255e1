"""The two routes that answer with vectors, as functions from a request to an answer."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from starlette.datastructures import State
from starlette.types import Receive, Scope

from backstay.serving import access, compression, wire
from backstay.serving.answer import Answer
from backstay.serving.body import parse_body, read_body
from backstay.serving.found import Found
from backstay.serving.head import Head, headers_of, query_version, read_head
from backstay.serving.lookup import Lookup
from backstay.serving.metrics import Outcome
from backstay.serving.problems import Problem, retry
from backstay.serving.router import Router

_INLINE = 64  # ids up to which an answer is computed in the event loop, not in a thread
_INLINE_COPIED = 1024  # the same, where vectors are only copied: no product, no text
_BODY_SECONDS = 10.0  # how long a body may take to arrive
CONSUMER = "backstay.consumer"  # where the ASGI scope holds the name of the asking consumer
OUTCOME = "backstay.outcome"  # where the ASGI scope holds the outcome of a look-up
_IN_FLIGHT = 256  # most look-ups of many ids at the same time


class Vectors:
    """Answers requests for vectors, and leaves the outcome in the request's scope.

    Args:
        state: Of the app: `lookup` and `max_ids` may be replaced while it runs.
        body_seconds: How long a body may take to arrive.
        in_flight: Most look-ups of many ids at the same time.
    """

    def __init__(
        self,
        state: State,
        *,
        body_seconds: float = _BODY_SECONDS,
        in_flight: int = _IN_FLIGHT,
    ) -> None:
        self._state = state
        self._body_seconds = body_seconds
        self._most_in_flight = in_flight
        self.in_flight = 0

    def opened(self) -> Lookup:
        """The look-up; Problem 503 before there is one."""
        lookup: Lookup | None = self._state.lookup
        if lookup is None:
            raise Problem(
                503,
                "the service has no registry yet. Set `registry` in its user_config.",
                headers=retry(5),
            )
        return lookup

    def serves(self, space: str) -> bool:
        """Whether a space is served."""
        lookup: Lookup | None = self._state.lookup
        return lookup is not None and space in lookup.spaces()

    async def get(
        self, scope: Scope, _receive: Receive, *, space: str, entity: str, id_: str
    ) -> Answer:
        """Answer with one vector; Problem 404 if the table does not hold the id."""
        lookup = self.opened()
        head = read_head(headers_of(scope))
        scope[CONSUMER] = consumer = access.consumer(scope, head.consumer)
        version = query_version(scope["query_string"])
        look_up = lookup.gather if isinstance(lookup, Router) else lookup.vectors
        found = look_up(
            space,
            entity,
            [lookup.parse_id(space, entity, id_)],
            version=version,
            consumer=consumer,
            source=head.source,
        )
        if not isinstance(found, Found):
            found = await found
        scope[OUTCOME] = Outcome.of(found, head.format)
        if not found.found[0]:
            raise Problem(
                404,
                f"{entity!r} of space {space!r} has no id {id_!r:.200} in version "
                f"{found.source_version}. Check the id, or use another entity.",
                kind="unknown-id",
                id=found.first_id(),
                headers=wire.version_headers(found),
            )
        tag = wire.etag(found, head.format)
        if head.if_none_match and _matches(head.if_none_match, tag):
            headers = {"Vary": wire.VARY, "ETag": tag, **wire.version_headers(found)}
            return Answer(304, headers)
        body, headers = wire.encode_one(found, head.format)
        headers["ETag"] = tag
        return self._answer(head, body, headers)

    async def look_up(self, scope: Scope, receive: Receive, *, space: str, entity: str) -> Answer:
        """Answer with many vectors, in request order."""
        lookup = self.opened()
        headers = headers_of(scope)
        head = read_head(headers)
        scope[CONSUMER] = consumer = access.consumer(scope, head.consumer)
        if scope["query_string"]:
            raise Problem(422, "a look-up takes no query. Put `version` into the body.")
        if self.in_flight >= self._most_in_flight:
            raise Problem(
                503,
                f"the service answers {self.in_flight} requests already. Try again.",
                kind="overloaded",
                headers={**retry(1), "Connection": "close"},
            )
        self.in_flight += 1
        try:
            max_ids: int = self._state.max_ids
            body = await read_body(receive, headers, max_ids=max_ids, seconds=self._body_seconds)
            asked = parse_body(body, max_ids=max_ids)

            gathered: Found | None = None
            if isinstance(lookup, Router):
                gathered = await lookup.gather(
                    space,
                    entity,
                    asked.ids,
                    version=asked.version,
                    consumer=consumer,
                    source=head.source,
                    partial=head.partial,
                )

            def answer() -> Answer:
                found = gathered or lookup.vectors(
                    space,
                    entity,
                    asked.ids,
                    version=asked.version,
                    consumer=consumer,
                    source=head.source,
                )
                scope[OUTCOME] = Outcome.of(found, head.format)
                return self._answer(head, *wire.encode(found, head.format))

            quick = head.format.media_type == wire.BINARY and len(asked.ids) <= _INLINE_COPIED
            if len(asked.ids) <= _INLINE or (
                quick and lookup.gathers(space, entity, asked.version, consumer=consumer)
            ):
                return answer()
            return await _in_thread(answer)
        finally:
            self.in_flight -= 1

    def _answer(self, head: Head, body: bytes | memoryview, headers: dict[str, str]) -> Answer:
        headers["Content-Type"] = head.format.content_type
        headers["Vary"] = wire.VARY
        if (
            head.encoding
            and len(body) >= compression.MIN_BYTES
            and head.format.media_type != wire.BINARY  # float32 does not shrink
        ):
            body = compression.compress(body, head.encoding)
            headers["Content-Encoding"] = head.encoding
        if self._state.pickled:
            body = bytes(body)
        return Answer(200, headers, body)


def _matches(if_none_match: bytes, tag: str) -> bool:
    """Whether an If-None-Match header names the tag (weak comparison, RFC 9110, 8.8.3.2)."""
    opaque = tag.removeprefix("W/")
    tags = (each.strip().removeprefix("W/") for each in if_none_match.decode("latin-1").split(","))
    return any(each in {"*", opaque} for each in tags)


async def _in_thread(answer: Callable[[], Answer]) -> Answer:
    return await asyncio.get_running_loop().run_in_executor(_threads(), answer)


@cache
def _threads() -> ThreadPoolExecutor:
    """One thread per core: the threads compute, they do not wait."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), "backstay-vectors")
