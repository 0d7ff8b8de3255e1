"""What the OpenAPI document says about requests, answers and problems."""

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from backstay.serving import wire
from backstay.serving.description import SpaceDescription

Schema = dict[str, Any]

_HEAD = (400, 414, 431)  # each request may be refused for its head
_ALWAYS = (*_HEAD, 500)

_STRING: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "integer", "minimum": 0}
_VERSION: Schema = {
    "oneOf": [_NUMBER, {"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_.\-]{0,199}$"}],
    "description": "A number, an alias such as `prod`, or `latest`. Left out: the version that the "
    "consumer's contract pins, else `prod`, else `latest`.",
}
_INT64: Schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
_VECTOR: Schema = {"type": "array", "items": {"type": "number"}}


def _object(properties: dict[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_ABOUT = {"space": _STRING, "entity": _STRING, "version": _NUMBER, "source_version": _NUMBER}
_IDS: Schema = {"anyOf": [{"type": "array", "items": _INT64}, {"type": "array", "items": _STRING}]}

_SCHEMAS: dict[str, Schema] = {
    "Spaces": _object({"spaces": {"type": "array", "items": _STRING}}),
    "LookupRequest": _object({"ids": _IDS, "version": _VERSION}, optional=("version",))
    | {"examples": [{"ids": [1, 2], "version": 0}]},
    "Vector": _object(_ABOUT | {"id": {"type": ["integer", "string"]}, "embedding": _VECTOR}),
    "Vectors": _object(
        _ABOUT
        | {"ids": _IDS, "embeddings": {"type": "array", "items": _VECTOR}, "missing": _IDS}
        | {"unanswered": _IDS},
        optional=("unanswered",),
    ),
    "Health": _object(
        {"status": _STRING, "failures": {"type": "object"}, "lost_shards": {"type": "object"}},
        optional=("lost_shards",),
    ),
    "Ready": _object({"status": _STRING}),
    "Problem": {
        "description": "RFC 9457: what was expected, what was found, and what to do.",
        "type": "object",
        "properties": {
            "type": {"type": "string", "pattern": "^urn:backstay:problem:"},
            "title": _STRING,
            "status": {"type": "integer"},
            "detail": _STRING,
            "instance": {"type": "string", "description": "the path"},
            "errors": {
                "type": "array",
                "items": _object({"field": _STRING, "expected": _STRING, "found": _STRING}),
            },
        },
        "required": ["type", "title", "status", "detail", "instance"],
    },
}

_REQUEST_ID = {wire.REQUEST_ID: {"description": "the request's id, also in the log",
                                 "schema": _STRING}}  # fmt: skip
_FOUND_HEADERS: Schema = {
    wire.VERSION: {"description": "version whose space the vectors are in", "schema": _NUMBER},
    wire.SOURCE_VERSION: {"description": "version of the table that the vectors come from",
                          "schema": _NUMBER},
    wire.FINGERPRINT: {"description": "fingerprint of the vectors' build", "schema": _STRING},
    wire.SOURCE_FINGERPRINT: {"description": "fingerprint of the table's build",
                              "schema": _STRING},
    wire.SHAPE: {"description": "application/octet-stream: rows and dimension, `n,D` (or `D`)",
                 "schema": _STRING},
    wire.MISSING: {"description": "application/octet-stream: number of ids that were not found",
                   "schema": _NUMBER},
    wire.FOUND: {"description": "application/octet-stream, unless all were found: base64 of a mask "
                                "with a bit per id, the first id in the lowest bit",
                 "schema": _STRING},
    wire.UNANSWERED: {"description": "where Backstay-Partial is true: number of ids that lost "
                                     "shards hold", "schema": _NUMBER},
    wire.UNANSWERED_MASK: {"description": "application/octet-stream, unless that is 0: base64 of a "
                                          "mask of those ids", "schema": _STRING},
    "Vary": {"description": "the request headers that decide about the answer", "schema": _STRING},
    "Content-Encoding": {"description": "zstd or gzip, by Accept-Encoding", "schema": _STRING},
}  # fmt: skip
_TAG = {"ETag": {"description": "weak; changes with table, space and format", "schema": _STRING}}

_DETAILS: dict[int, str] = {
    400: "The request is malformed: not UTF-8, not JSON, or contradicting headers",
    401: "No access token, or one that is unknown, revoked or expired",
    403: "The token allows something else, or belongs to another consumer",
    404: "No such path, space, entity, id or version",
    406: "Accept allows none of the formats",
    408: "The body did not arrive in time",
    409: "The table of Backstay-Source-Version can't be read any more",
    413: "Too many ids, or too long a body",
    414: "The path is too long",
    415: "The body is not plain JSON",
    422: "A field is invalid",
    431: "The headers are too long",
    500: "The service failed",
    503: "Not ready, or overloaded; see Retry-After",
}

_TOKEN: Schema = {
    "type": "http",
    "scheme": "bearer",
    "description": "An access token, made by `backstay tokens add`.",
}


def answers(ok: Schema, *refusals: int) -> dict[int | str, Any]:
    """The `responses` of a route: its success, its refusals, and those of every route."""
    documented: dict[int | str, Any] = {200: {**ok, "headers": _REQUEST_ID | ok.get("headers", {})}}
    for status in sorted({*refusals, *_ALWAYS}):
        headers = dict(_REQUEST_ID)
        if status == 503:  # noqa: PLR2004
            headers["Retry-After"] = {"description": "seconds", "schema": _NUMBER}
        if status in {404, 409}:
            headers |= {name: _FOUND_HEADERS[name] for name in (wire.VERSION, wire.SOURCE_VERSION)}
        documented[status] = {
            "description": _DETAILS[status],
            "content": {wire.PROBLEM: {"schema": _ref("Problem")}},
            "headers": headers,
        }
    return documented


def guarded(ok: Schema, *refusals: int) -> dict[int | str, Any]:
    """The `responses` of a route that may need an access token."""
    documented = answers(ok, *refusals, 401, 403, 503)
    documented[401]["headers"]["WWW-Authenticate"] = {"description": "Bearer", "schema": _STRING}
    return documented


OPEN: Schema = {"security": []}


def json_answer(description: str, schema: str) -> Schema:
    """A success in JSON."""
    return {"description": description, "content": {wire.JSON: {"schema": _ref(schema)}}}


def vectors_answer(schema: str) -> Schema:
    """A success with vectors, in any format; `schema`: of its JSON."""
    content: dict[str, Schema] = {media_type: {} for media_type in wire.MEDIA_TYPES}
    content[wire.JSON] = {"schema": _ref(schema)}
    return {
        "description": "Vectors, in the format that `Accept` selects",
        "content": content,
        "headers": _FOUND_HEADERS | (_TAG if schema == "Vector" else {}),
    }


METRICS: Schema = {"description": "Metrics", "content": {"text/plain": {"schema": _STRING}}}

NOT_MODIFIED: dict[int | str, Any] = {
    304: {
        "description": "The vector of If-None-Match is still the current one",
        "headers": _REQUEST_ID | _TAG | {
            name: value for name, value in _FOUND_HEADERS.items() if name.startswith("Backstay-")
            and name not in {wire.SHAPE, wire.MISSING, wire.FOUND, wire.UNANSWERED,
                             wire.UNANSWERED_MASK}
        },
    }
}  # fmt: skip


def _header(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "required": False,
            "description": description, "schema": schema}  # fmt: skip


_HEADERS = [
    _header(wire.CONSUMER, "the asking consumer, whose contract names the default version; with a "
            "token, the token's consumer asks, and another name here is refused",
            {"type": "string", "pattern": r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}$"}),
    _header(wire.SOURCE_VERSION, "answer from the table of this version, or with 409",
            {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}),
]  # fmt: skip

GET_VECTOR: Schema = {
    "parameters": [
        {"name": "version", "in": "query", "required": False, "schema": _VERSION},
        *_HEADERS,
        _header("If-None-Match", "the ETag of an earlier answer", {"type": "string",
                                                                   "pattern": "^[!-~]*$"}),
    ]
}  # fmt: skip
LOOK_UP: Schema = {
    "parameters": [
        *_HEADERS,
        _header(
            wire.PARTIAL,
            "true: leave out ids that lost shards of the service hold, instead of 503 for all",
            {"type": "string", "enum": ["true", "false"]},
        ),
    ],
    "requestBody": {"required": True, "content": {wire.JSON: {"schema": _ref("LookupRequest")}}},
}


def install(app: FastAPI) -> None:
    """Add the schemas to the document of `app`."""
    of_fastapi = app.openapi

    def extended() -> Schema:
        if app.openapi_schema is None:
            space = TypeAdapter(SpaceDescription).json_schema(
                ref_template="#/components/schemas/{model}"
            )
            schemas = _SCHEMAS | space.pop("$defs") | {"SpaceDescription": space}
            document = of_fastapi()
            document["components"] = {"schemas": schemas, "securitySchemes": {"token": _TOKEN}}
            document["security"] = [{"token": []}, {}]  # {}: a service may run without tokens
        return of_fastapi()

    app.openapi = extended  # type: ignore[method-assign] # FastAPI documents this way to extend it
