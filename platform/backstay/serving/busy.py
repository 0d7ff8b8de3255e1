"""Problem documents in place of the plain 503 of Ray Serve, which has no option for it.

Ray Serve's proxy calls `middlewares` where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH is
`backstay.serving.busy:middlewares`. HAProxy has a rule for the same; see `haproxy_launcher`.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backstay.serving.haproxy_launcher import BUSY
from backstay.serving.wire import PROBLEM

CALLBACK = "backstay.serving.busy:middlewares"

_SERVES_OWN = "/-/"  # paths of Ray Serve's health checks


class Busy:
    """Answers 503 with a problem document where Ray Serve answers 503 with text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and change its answer if need be."""
        if scope["type"] != "http" or scope["path"].startswith(_SERVES_OWN):
            await self._app(scope, receive, send)
            return
        replaced = False

        async def changed(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start":
                replaced = _is_plain_503(message)
                if replaced:
                    await send({"type": "http.response.start", "status": 503, "headers": _HEADERS})
                    await send({"type": "http.response.body", "body": _BODY})
            if not replaced:
                await send(message)

        await self._app(scope, receive, changed)


def middlewares() -> list[Middleware]:
    """For Ray Serve."""
    return [Middleware(Busy)]


def _is_plain_503(start: Message) -> bool:
    if start["status"] != 503:  # noqa: PLR2004
        return False
    headers = {name.lower(): value for name, value in start.get("headers", ())}
    return not headers.get(b"content-type", b"").startswith(PROBLEM.encode())


_BODY = BUSY.encode()
_HEADERS = [
    (b"content-type", PROBLEM.encode()),
    (b"content-length", b"%d" % len(_BODY)),
    (b"retry-after", b"1"),
]
