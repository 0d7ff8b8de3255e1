"""An HTTP answer in one piece, sent without a framework."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from starlette.types import Send

RawHeaders = list[tuple[bytes, bytes]]


class Answer(NamedTuple):
    """Status, headers and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes | memoryview = b""

    async def send(self, send: Send, *, request_id: str) -> None:
        """Send it over ASGI."""
        headers = raw(self.headers)
        headers.append((b"backstay-request-id", request_id.encode()))
        if self.status != 304:  # noqa: PLR2004 - its length would be that of the other answer
            headers.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def raw(headers: Mapping[str, str]) -> RawHeaders:
    """Headers as ASGI takes them."""
    return [_pair(*header) for header in headers.items()]


@lru_cache(maxsize=4096)
def _pair(name: str, value: str) -> tuple[bytes, bytes]:
    return name.lower().encode(), value.encode("latin-1")
