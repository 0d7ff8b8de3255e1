"""ASGI middleware round all routes: tokens, request ids, limits, metrics, log, a way to vectors.

Requests for vectors are answered without Starlette's router and request objects, which cost more
than the look-up of one id. The same requests also have routes, for a path that the short way does
not take, such as one with a `root_path`.
"""

from time import perf_counter
from typing import TYPE_CHECKING

from starlette.datastructures import State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backstay.serving.access import Access, asked
from backstay.serving.answer import Answer
from backstay.serving.head import check_size, request_id
from backstay.serving.metrics import Labels, Metrics, Outcome
from backstay.serving.problems import problem_of
from backstay.serving.vectors import CONSUMER, OUTCOME, Vectors

if TYPE_CHECKING:
    from backstay.serving.access_log import AccessLog

VECTOR = "/v1/spaces/{space}/{entity}/{id:anything}"
LOOKUP = "/v1/spaces/{space}/{entity}/lookup"

_METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Front:
    """Answers requests for vectors, and passes others on.

    Args:
        app: Gets the others.
        state: Of the app: `access`, and `log`, which may be replaced while it runs.
        vectors: Answers requests for vectors.
        metrics: Counts all requests.
    """

    def __init__(self, app: ASGIApp, *, state: State, vectors: Vectors, metrics: Metrics) -> None:
        self._app = app
        self._state = state
        self._access: Access = state.access
        self._vectors = vectors
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        status = 500  # the client's status if the app raises before it answers
        size = 0
        id_, route = request_id(scope), ""

        async def watched(message: Message) -> None:
            nonlocal size, status
            size += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()), (b"backstay-request-id", id_.encode())
                ]  # fmt: skip
            await send(message)

        try:
            route, answer = await self._answer(scope, receive)
            if answer:
                status, size = answer.status, len(answer.body)
                await answer.send(send, request_id=id_)
            else:
                await self._app(scope, receive, watched)
        finally:
            # The template, not the path: otherwise each id would have its own series.
            route = route or getattr(scope.get("route"), "path", "unmatched")
            self._ended(
                scope, id_, route=route, status=status, size=size, seconds=perf_counter() - start
            )

    def _ended(
        self, scope: Scope, id_: str, *, route: str, status: int, size: int, seconds: float
    ) -> None:
        """Count a request, and log it."""
        # Clients can send any method name.
        method = scope["method"] if scope["method"] in _METHODS else "other"
        outcome: Outcome | None = scope.get(OUTCOME)
        if outcome is not None:
            labels = Labels(
                method, route, status, outcome.space, str(outcome.version), outcome.format
            )
        else:
            labels = Labels(method, route, status, self._space(scope, route))
        self._metrics.answered(labels, seconds=seconds, size=size, outcome=outcome)
        log: AccessLog = self._state.log
        if log.on:
            log.write(
                {
                    "request_id": id_,
                    **labels._asdict(),
                    "entity": outcome.entity if outcome else "",
                    "source_version": outcome.source_version if outcome else "",
                    "ids": outcome.ids if outcome else 0,
                    "found": outcome.found if outcome else 0,
                    "bytes": size,
                    "milliseconds": round(1000 * seconds, 3),
                    "consumer": scope.get(CONSUMER) or "",
                }
            )

    def _space(self, scope: Scope, route: str) -> str:
        """The space of a look-up that failed, if it is served: clients can send any name."""
        if route not in {VECTOR, LOOKUP}:
            return ""
        name: str = scope["path"].split("/", 5)[3]
        return name if self._vectors.serves(name) else ""

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[str, Answer | None]:
        """The route's template and the answer; no answer if another route has to give it."""
        route = ""
        try:
            check_size(scope)
            parts = scope["path"].split("/", 5)
            if len(parts) < 6 or parts[:3] != ["", "v1", "spaces"]:  # noqa: PLR2004
                self._access.check(scope, *asked(scope))
                return route, None
            _, _, _, space, entity, id_ = parts
            self._access.check(scope, "lookup", space)
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
