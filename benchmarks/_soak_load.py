"""The load of the soak: a small HTTP client for asyncio that checks every answer.

wrk makes more requests a second, but checks nothing. This client spends some 0.1 ms a request, and
the same bytes of an answer are compared with the oracle once.
"""

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast
from urllib.parse import urlsplit

import httpx
import numpy as np
from _soak_world import CONSUMER, ENTITY, SPACE, STABLE, Allowed, Answered, Asked, Mix, World

from backstay.errors import BackstayError
from backstay.serving.client import Client
from backstay.serving.client.attempts import Attempts, RetryPolicy

_POLICY = RetryPolicy(timeout=30, connect_timeout=5, deadline=60, retries=8)  # those of `Client`
_CONNECTIONS = {"load": 100, "flood": 800}  # at most, as clients have; HAProxy takes 4,096
_WARM_SECONDS = 120.0
_SUCCESS = 200


@dataclass(frozen=True, slots=True)
class Done:
    """One request, with all its attempts."""

    due: float  # time.monotonic() at which it should have been sent
    seconds: float  # until its last answer
    first: str | None  # why its first attempt failed
    failed: str | None  # why it failed after all attempts
    stream: str  # load, flood or client


@dataclass
class Tally:
    """What has happened so far."""

    allowed: Allowed
    done: list[Done] = field(default_factory=list)
    bad: Counter[str] = field(default_factory=Counter)  # answers that are wrong or stale
    examples: list[str] = field(default_factory=list)  # the first bad answers and failures
    last_failure: float = 0.0
    sources: dict[int, float] = field(default_factory=dict)  # in force -> first answer from it
    processes: dict[bytes, float] = field(default_factory=dict)  # that answered -> last time
    unsent: int = 0  # requests of a flood for which there was no connection

    def note(self, why: str, detail: str) -> None:
        """Keep the first examples of each reason."""
        self.bad[why] += why in {"wrong", "stale"}
        if sum(example.startswith(why) for example in self.examples) < 3:  # noqa: PLR2004
            self.examples.append(f"{why}: {detail}")

    def between(self, start: float, end: float, *streams: str) -> list[Done]:
        """The requests that were due in a time."""
        return [d for d in self.done if start <= d.due < end and d.stream in streams]

    def seen(self, asked: Asked, answered: bytes, process: bytes, now: float) -> None:
        """Note what answered."""
        self.processes[process] = now
        if asked.version == "prod":
            self.sources.setdefault(int(answered), now)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int
    headers: dict[bytes, bytes]  # lower-case names
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._waiting: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None
        self._reply: Reply | None = None  # without its body
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class is not its child

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._fail(f"the connection was closed ({exc})")

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            self._parse()
        except (ValueError, LookupError):
            self.close()
            self._fail(f"expected an HTTP answer, found {bytes(self._data[:60])!r}")

    def _parse(self) -> None:
        if self._reply is None:
            head = self._data.find(b"\r\n\r\n")
            if head < 0:
                return
            lines = bytes(self._data[:head]).split(b"\r\n")
            pairs = (line.partition(b":") for line in lines[1:])
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            self._reply = Reply(int(lines[0].split(b" ", 2)[1]), headers, b"")
            del self._data[: head + 4]
        headers = self._reply.headers
        if headers.get(b"transfer-encoding") == b"chunked":
            if not self._data.endswith(b"0\r\n\r\n"):
                return
            body = _unchunked(bytes(self._data))
        elif len(self._data) >= (size := int(headers[b"content-length"])):
            body = bytes(self._data[:size])
        else:
            return
        if headers.get(b"connection", b"").lower() == b"close":
            self.close()
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(replace(self._reply, body=body))

    def _fail(self, why: str) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_exception(httpx.RemoteProtocolError(why))

    def send(self, message: bytes) -> asyncio.Future[Reply]:
        """Send a request; its answer."""
        assert self._transport is not None  # noqa: S101
        self._data, self._reply = bytearray(), None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return self._waiting

    def close(self) -> None:
        """Close it."""
        self.lost = True
        if self._transport:
            self._transport.abort()


def _unchunked(data: bytes) -> bytes:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        if not int(size, 16):
            return body
        body += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]


class Http:
    """Connections to one server, at most so many."""

    def __init__(self, url: str, *, limit: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._idle: deque[_Connection] = deque()
        self._free = asyncio.Semaphore(limit)

    @property
    def full(self) -> bool:
        """Whether the next request has to wait for a connection."""
        return self._free.locked()

    async def send(self, message: bytes, *, seconds: float) -> Reply:
        """Send one request; an error of httpx if there is no answer."""
        async with self._free:
            connection = await self._connection()
            try:
                async with asyncio.timeout(seconds):
                    reply = await connection.send(message)
            except TimeoutError:
                connection.close()
                raise httpx.ReadTimeout(f"no answer within {seconds:.0f} s") from None
            if not connection.lost:
                self._idle.append(connection)
            return reply

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                return connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_POLICY.connect_timeout):
                _, made = await loop.create_connection(_Connection, self._host, self._port)
        except OSError as error:  # TimeoutError is one
            raise httpx.ConnectError(str(error)) from error
        return made

    def close(self) -> None:
        """Close all idle connections."""
        for connection in self._idle:
            connection.close()


class Load:
    """Sends requests, and checks and counts their answers."""

    def __init__(self, url: str, world: World, mix: Mix, tally: Tally) -> None:
        self._http = {name: Http(url, limit=limit) for name, limit in _CONNECTIONS.items()}
        self._world = world
        self._mix = mix
        self._tally = tally
        self._tasks: set[asyncio.Task[None]] = set()

    async def once(self, asked: Asked, due: float, *, stream: str = "load") -> None:
        """One request with its attempts; a flood has one attempt."""
        attempts, first, why = Attempts(_POLICY, connected=True), None, None
        while True:
            why, outcome = await self._attempt(asked, flood=stream == "flood")
            if first is None:
                first = why or ""
            if why is None or stream == "flood" or why in {"wrong", "stale"}:
                break
            wait = attempts.wait(outcome)
            if wait is None:
                break
            await asyncio.sleep(wait)
        now = time.monotonic()
        self._tally.done.append(Done(due, now - due, first or None, why, stream))

    async def _attempt(
        self, asked: Asked, *, flood: bool = False
    ) -> tuple[str | None, httpx.Response | httpx.RequestError]:
        tally, allowed = self._tally, self._tally.allowed
        try:
            http = self._http["flood" if flood else "load"]
            reply = await http.send(asked.message, seconds=_POLICY.timeout)
        except httpx.RequestError as error:
            tally.last_failure = time.monotonic()
            why = type(error).__name__
            tally.note(why, str(error))
            return why, error
        now = time.monotonic()
        if reply.status == _SUCCESS:
            process = reply.headers.get(b"backstay-request-id", b"").partition(b"-")[0]
            source = reply.headers.get(b"backstay-source-version", b"-1")
            tally.seen(asked, source, process, now)
            fault = self._world.fault(asked, reply.headers, reply.body, allowed | tally.allowed)
            if fault:
                tally.last_failure = now
                tally.note(fault, f"{asked.kind}, version {asked.version}: {reply.headers}")
            return fault, httpx.Response(_SUCCESS)
        tally.last_failure = now
        why = str(reply.status)
        tally.note(why, reply.body[:200].decode(errors="replace"))
        return why, httpx.Response(
            reply.status, headers=list(reply.headers.items()), content=reply.body
        )

    async def warm(self) -> None:
        """Send every request until it succeeds; RuntimeError if that takes too long."""
        end = time.monotonic() + _WARM_SECONDS
        for asked in self._mix.all:
            while (why := (await self._attempt(asked))[0]) is not None:
                if time.monotonic() > end:
                    raise RuntimeError(f"the service does not answer: {why}")
                await asyncio.sleep(0.5)

    async def closed(self, *, connections: int, seconds: float) -> float:
        """Requests a second with so many connections that are never idle."""
        end, count = time.monotonic() + seconds, 0

        async def ask() -> None:
            nonlocal count
            while time.monotonic() < end:
                for asked in self._mix.draw(50):
                    await self.once(asked, time.monotonic(), stream="warm-up")
                    count += 1
                    if time.monotonic() >= end:
                        return

        start = time.monotonic()
        await asyncio.gather(*(ask() for _ in range(connections)))
        return count / (time.monotonic() - start)

    async def opened(self, rate: float, *, until: Callable[[], bool], stream: str = "load") -> None:
        """Send so many requests a second, however long their answers take."""
        due, drawn = time.monotonic(), iter(())
        waiting: Iterator[Asked] = drawn
        while not until():
            now = time.monotonic()
            while due <= now:
                asked = next(waiting, None)
                if asked is None:
                    waiting = iter(self._mix.draw(200))
                    asked = next(waiting)
                if stream == "flood" and self._http[stream].full:
                    self._tally.unsent += 1
                else:
                    task = asyncio.create_task(self.once(asked, due, stream=stream))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                due += 1 / rate
            await asyncio.sleep(max(due - time.monotonic(), 0.001))

    async def finish(self) -> None:
        """Wait for the last answers."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        for http in self._http.values():
            http.close()


@contextmanager
def paging(url: str, world: World, tally: Tally, *, pause: float) -> Iterator[None]:
    """A thread that looks up 3,000 ids in six pages, again and again, with the real client."""
    stop = threading.Event()

    def loop() -> None:
        rng = np.random.default_rng(2)
        asking: list[tuple[int | str | None, bool]] = [
            (0, False),
            ("prod", False),
            (STABLE, False),
            (None, True),
            (None, False),
        ]
        with (
            Client(url, batch=500, concurrency=2) as plain,
            Client(url, batch=500, concurrency=2, consumer=CONSUMER) as pinned,
        ):
            turn = 0
            while not stop.wait(pause):
                version, pins = asking[turn % len(asking)]
                turn += 1
                rows = rng.integers(0, len(world.ids), 3000)
                client, allowed, due = pinned if pins else plain, tally.allowed, time.monotonic()
                why = None
                try:
                    found = client.lookup(SPACE, ENTITY, world.ids[rows], version)
                except BackstayError as error:
                    why = type(error).__name__
                    tally.note(why, str(error))
                else:
                    answered = Answered(found.version, found.source_version)
                    if not world.right(found.values, answered, rows):
                        why = "wrong"
                    elif answered not in (allowed | tally.allowed).answers(version, pinned=pins):
                        why = "stale"
                    if why:
                        tally.note(why, f"a look-up of {version} by the client: {answered}")
                tally.done.append(Done(due, time.monotonic() - due, None, why, "client"))

    thread = threading.Thread(target=loop, name="paging", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of the values lies."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0
