"""The look-up service's HTTP routes.

`build_app` needs no Ray: any ASGI server or test client can run it.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.convertors import Convertor, register_url_convertor
from starlette.types import Receive, Scope, Send
from threadpoolctl import threadpool_limits

import backstay
from backstay.serving import docs, exposition, openapi, problems, status, wire
from backstay.serving.access import Access, Auth, visible
from backstay.serving.access_log import AccessLog
from backstay.serving.config import MAX_IDS, check_max_ids
from backstay.serving.front import LOOKUP, VECTOR, Front
from backstay.serving.lookup import Lookup
from backstay.serving.metrics import Metrics
from backstay.serving.monitor import Monitor
from backstay.serving.openapi import answers, guarded, json_answer, vectors_answer
from backstay.serving.problems import Problem
from backstay.serving.vectors import Vectors


class _App(FastAPI):
    """Passes each request through `front` first, before FastAPI's own middleware."""

    front: Front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.front(scope, receive, send)

    async def behind_front(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route a request as FastAPI does."""
        await super().__call__(scope, receive, send)


def build_app(
    lookup: Lookup | None = None,
    *,
    max_ids: int = MAX_IDS,
    auth: Auth = "auto",
    replica: str | None = None,
) -> FastAPI:
    """The ASGI application.

    Sets BLAS to one thread in this process: requests run beside each other, and more threads than
    cores make all of them slow.

    Args:
        lookup: Answers the requests; without one, they get 503. As `app.state.lookup`, it may be
            replaced while the app runs, and so may `max_ids` and `auth`.
        max_ids: Most ids in one request.
        auth: Whether requests need an access token.
        replica: A label of the metrics; by default the process id.

    `app.state.pickled` must be True if the server pickles answers, as Ray Serve does.
    """
    threadpool_limits(1, user_api="blas")
    app = _App(
        title="Backstay",
        summary="The newest embeddings, in the vector space of any version.",
        version=backstay.__version__,
        docs_url=None,
        redoc_url=None,
        default_response_class=Response,
    )
    app.state.lookup = lookup
    app.state.max_ids = check_max_ids(max_ids)
    app.state.auth = auth
    app.state.access = Access(app.state)
    app.state.pickled = False
    app.state.log = AccessLog()
    metrics = Metrics()
    app.state.vectors = vectors = Vectors(app.state)
    app.state.monitor = Monitor(app.state, metrics=metrics, vectors=vectors, replica=replica)
    app.front = Front(app.behind_front, state=app.state, vectors=vectors, metrics=metrics)
    problems.install(app)
    openapi.install(app)
    docs.install(app)
    status.install(app)
    for path, route, method, responses, extra in _ROUTES:
        app.add_api_route(
            path, route, methods=[method], response_model=None, responses=responses,
            openapi_extra=extra,
        )  # fmt: skip
    return app


async def list_spaces(request: Request) -> Response:
    """List the spaces that the token allows."""
    return _json({"spaces": visible(request.scope, _vectors(request).opened().spaces())})


async def show_space(request: Request, space: str) -> Response:
    """Describe a space: versions, dimensions, entities, and the versions of each entity."""
    return _json(_vectors(request).opened().describe(space))


async def get_vector(
    request: Request,
    space: str,
    entity: str,
    id: Annotated[str, Path(description="an integer if the table's ids are integers")],  # noqa: A002
) -> Response:
    """Look up one vector. 404 if the table does not hold the id."""
    answer = await _vectors(request).get(
        request.scope, request.receive, space=space, entity=entity, id_=id
    )
    return problems.response(answer)


async def look_up(request: Request, space: str, entity: str) -> Response:
    """Look up many vectors, in request order. `missing` lists the ids that were not found."""
    answer = await _vectors(request).look_up(
        request.scope, request.receive, space=space, entity=entity
    )
    return problems.response(answer)


async def health(request: Request) -> Response:
    """Report which spaces could not be refreshed, and which shards do not answer."""
    lookup = _vectors(request).opened()
    failures = lookup.failures
    lost = lookup.lost
    shown = {name: failures[name] for name in visible(request.scope, failures)}
    report: dict[str, object] = {"failures": shown}
    if lost:
        report["lost_shards"] = {str(n): why for n, why in lost.items()}
    return _json({"status": "degraded" if failures or lost else "ok", **report})


async def ready(request: Request) -> Response:
    """Report whether every space can be served; 503 lists those that can't, and why."""
    reasons = _vectors(request).opened().ready()
    shown = {name: reasons[name] for name in visible(request.scope, reasons)}
    if (missing := request.app.state.access.missing()) is not None:
        reasons["tokens"] = shown["tokens"] = missing
    if reasons:
        raise Problem(
            503,
            f"not ready, for {len(reasons)} reasons. Wait, or look at them with a token.",
            kind="not-ready",
            headers=problems.retry(5),
            reasons=shown,
        )
    return _json({"status": "ok"})


async def report_metrics(request: Request) -> Response:
    """Report the metrics of all replicas in Prometheus's format."""
    monitor: Monitor = request.app.state.monitor
    text = exposition.render(await monitor.overview())
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _vectors(request: Request) -> Vectors:
    vectors: Vectors = request.app.state.vectors
    return vectors


def _json(value: object) -> Response:
    return Response(wire.dump_json(value), media_type=wire.JSON)


class _Anything(Convertor[str]):
    """Matches ids with slashes and line breaks. Starlette's `path` drops a final line break."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())

_Route = tuple[
    str, Callable[..., Awaitable[Response]], str, dict[int | str, Any], dict[str, Any] | None
]
_ROUTES: list[_Route] = [
    ("/v1/spaces", list_spaces, "GET", guarded(json_answer("The spaces", "Spaces")), None),
    ("/v1/spaces/{space}", show_space, "GET",
     guarded(json_answer("The space", "SpaceDescription"), 404, 422), None),
    (LOOKUP, look_up, "POST",
     guarded(vectors_answer("Vectors"), 404, 406, 408, 409, 413, 415, 422), openapi.LOOK_UP),
    (VECTOR, get_vector, "GET",
     guarded(vectors_answer("Vector"), 404, 406, 409, 422) | openapi.NOT_MODIFIED,
     openapi.GET_VECTOR),
    ("/healthz", health, "GET", answers(json_answer("It works", "Health"), 503), openapi.OPEN),
    ("/readyz", ready, "GET", answers(json_answer("It is ready", "Ready"), 503), openapi.OPEN),
    ("/metrics", report_metrics, "GET", guarded(openapi.METRICS), None),
]  # fmt: skip
