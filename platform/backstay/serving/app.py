"""The look-up service's HTTP routes.

`build_app` needs no Ray: any ASGI server or test client can run it.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import FastAPI, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError
from starlette.convertors import Convertor, register_url_convertor

import backstay
from backstay.serving import docs, problems, wire
from backstay.serving.config import MAX_IDS, check_max_ids
from backstay.serving.lookup import Found, Lookup
from backstay.serving.metrics import Metrics, Timed
from backstay.serving.problems import Problem

_BYTES_PER_ID = 512  # limit of a request's body; some ids may be longer if others are shorter
_INLINE = 64  # ids up to which an answer is computed in the event loop, not in a thread

Version = Annotated[int, Field(ge=0)] | Literal["latest"]


class LookupRequest(BaseModel):
    """The vectors to look up."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"ids": [1, 2]}]})

    ids: list[StrictInt | StrictStr] = Field(description="ids of the table's type, in any order")
    version: Annotated[StrictInt, Field(ge=0)] | Literal["latest"] = Field(
        "latest", description="version whose space the vectors are in"
    )


def build_app(
    lookup: Lookup | None = None, *, max_ids: int = MAX_IDS, replica: str | None = None
) -> FastAPI:
    """The ASGI application.

    `app.state.lookup` and `app.state.max_ids` may be replaced while it runs. Without a lookup, it
    answers 503. `replica` labels the metrics; the default is the process id.
    """
    app = FastAPI(
        title="Backstay",
        summary="The newest embeddings, in the vector space of any version.",
        version=backstay.__version__,
        docs_url=None,
        redoc_url=None,
        default_response_class=Response,
    )
    app.state.lookup = lookup
    app.state.max_ids = check_max_ids(max_ids)
    app.state.metrics = Metrics(replica=replica)
    app.add_middleware(Timed, metrics=app.state.metrics)
    problems.install(app)
    docs.install(app)
    for path, route, method, options in _ROUTES:
        app.add_api_route(path, route, methods=[method], response_model=None, **options)
    return app


async def list_spaces(request: Request) -> Response:
    """List the spaces."""
    return _json({"spaces": _lookup(request).spaces()})


async def show_space(request: Request, space: str) -> Response:
    """Describe a space: versions, dimensions, entities, and the versions of each entity."""
    return _json(_lookup(request).describe(space))


async def get_vector(
    request: Request,
    space: str,
    entity: str,
    id: Annotated[str, Path(description="an integer if the table's ids are integers")],  # noqa: A002
    version: Annotated[
        Version, Query(description="version whose space the vector is in")
    ] = "latest",
) -> Response:
    """Look up one vector. 404 if the table does not hold the id."""
    media_type = _negotiated(request)
    lookup = _lookup(request)
    found = _find(request, space, entity, [lookup.parse_id(space, entity, id)], version)
    if not found.found[0]:
        raise Problem(
            404,
            f"{entity!r} of space {space!r} has no id {id!r} in version {found.source_version}, "
            "the newest. Check the id, or use another entity.",
            kind="unknown-id",
            id=found.ids[0].as_py(),
            headers=wire.version_headers(found),
        )
    body, headers = wire.encode_one(found, media_type)
    return Response(body, headers=headers)


async def look_up(request: Request, space: str, entity: str) -> Response:
    """Look up many vectors, in request order. `missing` lists the ids that were not found."""
    media_type = _negotiated(request)
    asked = _parse(await _body(request))
    limit = request.app.state.max_ids
    if len(asked.ids) > limit:
        raise _too_large(request, f"{len(asked.ids)} ids")

    def answer() -> Response:
        found = _find(request, space, entity, asked.ids, asked.version)
        body, headers = wire.encode(found, media_type)
        return Response(body, headers=headers)

    return answer() if len(asked.ids) <= _INLINE else await to_thread.run_sync(answer)


async def health(request: Request) -> Response:
    """Report whether look-ups are answered, and which spaces could not be refreshed."""
    lookup = _lookup(request)
    failures = lookup.failures
    return _json({"status": "degraded" if failures else "ok", "failures": failures})


async def ready(request: Request) -> Response:
    """Report whether every space can be served; 503 lists those that can't, and why."""
    reasons = _lookup(request).ready()
    if reasons:
        raise Problem(
            503,
            f"{len(reasons)} spaces can't be served. Wait, or look at the reasons.",
            kind="not-ready",
            headers={"Retry-After": "5"},
            reasons=reasons,
        )
    return _json({"status": "ok"})


async def metrics(request: Request) -> Response:
    """Report this replica's counters in Prometheus's format."""
    registry = request.app.state.metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _lookup(request: Request) -> Lookup:
    lookup: Lookup | None = request.app.state.lookup
    if lookup is None:
        raise Problem(503, "the service has no registry yet. Set `registry` in its user_config.")
    return lookup


def _find(
    request: Request,
    space: str,
    entity: str,
    ids: Sequence[int | str],
    version: int | Literal["latest"],
) -> Found:
    number = None if version == "latest" else version
    found = _lookup(request).vectors(space, entity, ids, version=number)
    request.app.state.metrics.looked_up(found)
    return found


def _negotiated(request: Request) -> wire.MediaType:
    accept = ", ".join(request.headers.getlist("accept"))
    media_type = wire.negotiate(accept)
    if media_type is None:
        raise Problem(
            406,
            f"Accept must allow one of {', '.join(wire.MEDIA_TYPES)}; found {accept!r}. "
            "Without Accept, the answer is JSON.",
            available=wire.MEDIA_TYPES,
        )
    return media_type


async def _body(request: Request) -> bytes:
    content_type = request.headers.get("content-type", wire.JSON)
    if content_type.partition(";")[0].strip().lower() != wire.JSON:
        raise Problem(
            415,
            f"the body must be {wire.JSON}; found {content_type!r}. Set Content-Type.",
            headers={"Accept": wire.JSON},
        )
    most = 4096 + _BYTES_PER_ID * request.app.state.max_ids
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise _too_large(request, f"a body of more than {most} bytes")
    return bytes(body)


def _parse(body: bytes) -> LookupRequest:
    try:
        return LookupRequest.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        broken = errors[0]["type"] == "json_invalid"
        raise problems.from_validation(errors, status=400 if broken else 422) from None


def _too_large(request: Request, what: str) -> Problem:
    limit = request.app.state.max_ids
    return Problem(
        413,
        f"a request may ask for up to {limit} ids; found {what}. Split the request.",
        limit=limit,
    )


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


_VECTORS: dict[str, object] = {
    "description": "Vectors, in the media type that `Accept` selects",
    "content": {media_type: {} for media_type in wire.MEDIA_TYPES},
    "headers": {
        wire.VERSION: {"description": "version whose space the vectors are in",
                       "schema": {"type": "integer"}},
        wire.SOURCE_VERSION: {"description": "version of the table that the vectors come from",
                              "schema": {"type": "integer"}},
        wire.FINGERPRINT: {"description": "fingerprint of the vectors' build",
                           "schema": {"type": "string"}},
        wire.SOURCE_FINGERPRINT: {"description": "fingerprint of the table's build",
                                  "schema": {"type": "string"}},
    },
}  # fmt: skip
_JSON: dict[str, object] = {"content": {wire.JSON: {}}}


def _documented(ok: dict[str, object], *refusals: int) -> dict[str, Any]:
    problem = {"description": "Problem document", "content": {problems.MEDIA_TYPE: {}}}
    return {"responses": {200: ok, **dict.fromkeys(refusals, problem)}}


_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {wire.JSON: {"schema": LookupRequest.model_json_schema()}},
    }
}
_VECTOR = "/v1/spaces/{space}/{entity}"
_ROUTES: list[tuple[str, Callable[..., Awaitable[Response]], str, dict[str, Any]]] = [
    ("/v1/spaces", list_spaces, "GET", _documented(_JSON)),
    ("/v1/spaces/{space}", show_space, "GET", _documented(_JSON, 404)),
    (f"{_VECTOR}/lookup", look_up, "POST",
     _documented(_VECTORS, 400, 404, 406, 413, 415, 422) | {"openapi_extra": _REQUEST_BODY}),
    (f"{_VECTOR}/{{id:anything}}", get_vector, "GET", _documented(_VECTORS, 404, 406, 422)),
    ("/healthz", health, "GET", _documented(_JSON, 503)),
    ("/readyz", ready, "GET", _documented(_JSON, 503)),
    ("/metrics", metrics, "GET", _documented({"content": {"text/plain": {}}})),
]  # fmt: skip
