"""Both clients behind one face, and a service in one function that can be made to fail."""

import base64
import json
from contextlib import contextmanager
from functools import partial

import anyio.lowlevel
import httpx
import numpy as np
from anyio.from_thread import start_blocking_portal

from backstay.serving import wire
from backstay.serving.client import AsyncClient, Client

KINDS = ("sync", "async")


class _Blocking:
    """Calls the methods of an asynchronous client in an event loop of another thread."""

    def __init__(self, portal, client):
        self._portal = portal
        self._client = client

    def __getattr__(self, name):
        return lambda *args, **options: self._portal.call(
            partial(getattr(self._client, name), *args, **options)
        )


@contextmanager
def opened(kind, url="http://service", **options):
    """A client of this kind, with methods that block."""
    if kind == "sync":
        with Client(url, **options) as client:
            yield client
        return
    with start_blocking_portal() as portal:
        client = _Blocking(portal, AsyncClient(url, **options))
        try:
            yield client
        finally:
            client.close()


class _Yielding(httpx.MockTransport):
    """Lets other tasks run before each answer, as a network does."""

    async def handle_async_request(self, request):
        await anyio.lowlevel.checkpoint()
        return await super().handle_async_request(request)


class FakeService:
    """Answers look-ups: the vector of id i from table version s is (i, s).

    Negative ids are missing. Each of `faults` meets one request: an answer or an exception to give
    in its place, a function to call before it, or None. `refuses`: whether a request for another
    source than the present one is a 409.
    """

    def __init__(self, *faults, source=2, refuses=True):
        self.faults = list(faults)
        self.source = source
        self.refuses = refuses
        self.requests = []
        self.transport = _Yielding(self)

    def __call__(self, request):
        self.requests.append(request)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        if isinstance(fault, httpx.Response):
            # A fresh one: an answer can be sent by one of httpx's two clients only.
            return httpx.Response(fault.status_code, headers=fault.headers, content=fault.content)
        if fault:
            fault()
        if request.method == "GET":
            return httpx.Response(200, json={"spaces": ["films"]})
        pinned = request.headers.get(wire.SOURCE_VERSION)
        if self.refuses and pinned and int(pinned) != self.source:
            return problem(409, "source-changed", f"version {self.source} answers now")
        body = json.loads(request.content)
        version = body.get("version", 1)
        version = version if isinstance(version, int) else self.source
        found = [id_ >= 0 for id_ in body["ids"]]
        kept = [[id_, self.source] for id_ in body["ids"] if id_ >= 0]
        half = request.headers["accept"].startswith(wire.HALF)
        mask = np.packbits(found, bitorder="little").tobytes()
        headers = {
            "Content-Type": wire.HALF if half else wire.BINARY,
            wire.VERSION: str(version),
            wire.SOURCE_VERSION: str(self.source),
            wire.FINGERPRINT: f"build of {version}",
            wire.SOURCE_FINGERPRINT: f"build of {self.source}",
            wire.SHAPE: f"{len(kept)},2",
            wire.MISSING: str(len(found) - len(kept)),
            wire.FOUND: base64.b64encode(mask).decode(),
        }
        values = np.array(kept, "<f2" if half else "<f4")
        return httpx.Response(200, headers=headers, content=values.tobytes())


def problem(status, kind, detail, **headers):
    return httpx.Response(
        status,
        headers={"Content-Type": "application/problem+json"} | headers,
        content=json.dumps({"type": f"urn:backstay:problem:{kind}", "detail": detail}),
    )
