"""ASGI middleware round all routes: request ids, limits, metrics, and a short way to vectors.

Requests for vectors are answered without Starlette's router and request objects, which cost more
than the look-up of one id. The same requests also have routes, for a path that the short way does
not take, such as one with a `root_path`.
"""

from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backstay.serving.answer import Answer
from backstay.serving.head import check_size, request_id
from backstay.serving.metrics import Metrics
from backstay.serving.problems import problem_of
from backstay.serving.vectors import Vectors

VECTOR = "/v1/spaces/{space}/{entity}/{id:anything}"
LOOKUP = "/v1/spaces/{space}/{entity}/lookup"

_METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Front:
    """Answers requests for vectors, and passes others on."""

    def __init__(self, app: ASGIApp, *, vectors: Vectors, metrics: Metrics) -> None:
        self._app = app
        self._vectors = vectors
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        status = 500  # the client's status if the app raises before it answers
        id_, route = request_id(scope), ""

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()), (b"backstay-request-id", id_.encode())
                ]  # fmt: skip
            await send(message)

        try:
            route, answer = await self._answer(scope, receive)
            if answer:
                status = answer.status
                await answer.send(send, request_id=id_)
            else:
                await self._app(scope, receive, watched)
        finally:
            # The template, not the path: otherwise each id would have its own series.
            route = route or getattr(scope.get("route"), "path", "unmatched")
            self._metrics.answered(
                # Clients can send any method name.
                method=scope["method"] if scope["method"] in _METHODS else "other",
                route=route,
                status=status,
                seconds=perf_counter() - start,
            )

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[str, Answer | None]:
        """The route's template and the answer; no answer if another route has to give it."""
        route = ""
        try:
            check_size(scope)
            parts = scope["path"].split("/", 5)
            if len(parts) < 6 or parts[:3] != ["", "v1", "spaces"]:  # noqa: PLR2004
                return route, None
            _, _, _, space, entity, id_ = parts
            if scope["method"] == "GET":
                route = VECTOR
                return route, await self._vectors.get(
                    scope, receive, space=space, entity=entity, id_=id_
                )
            if scope["method"] == "POST" and id_ == "lookup":
                route = LOOKUP
                return route, await self._vectors.look_up(
                    scope, receive, space=space, entity=entity
                )
        except Exception as error:  # noqa: BLE001 - each error is answered
            return route, problem_of(error).answer(scope["path"])
        return route, None
