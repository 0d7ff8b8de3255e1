"""Errors over HTTP: each failed request is answered with an RFC 9457 problem document.

{"type": "urn:backstay:problem:not-found", "title": "Not found", "status": 404,
 "detail": what was expected, what was found, and what to do,
 "instance": the path, "errors": one entry per invalid field, if fields are invalid}
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import ceil
from typing import Any, cast
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from backstay.errors import (
    BackstayError,
    MissingMapError,
    NotFoundError,
    NotReadyError,
    SourceChangedError,
    UsageError,
)
from backstay.serving import wire

MEDIA_TYPE = "application/problem+json"

_KINDS = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    413: "too-large",
    415: "unsupported-media-type",
    422: "invalid-request",
    500: "internal-error",
    503: "unavailable",
}
_SHOWN = 5  # most invalid fields in a document


class Problem(Exception):  # noqa: N818 - the name in RFC 9457
    """An error that is answered with a problem document."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str | None = None,
        headers: dict[str, str] | None = None,
        **members: object,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = kind or _KINDS.get(status, "http-error")
        self.headers = headers or {}
        self.members = members

    def response(self, request: Request) -> Response:
        """The answer."""
        body = {
            "type": f"urn:backstay:problem:{self.kind}",
            "title": self.kind.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "instance": quote(request.scope["path"]),  # request.url drops some characters
            **self.members,
        }
        return Response(
            orjson.dumps(body, default=str), self.status, self.headers, media_type=MEDIA_TYPE
        )


def from_validation(errors: Sequence[Mapping[str, Any]], *, status: int = 422) -> Problem:
    """The problem document for pydantic's errors."""
    fields = [
        {"field": ".".join(map(str, error["loc"])), "message": error["msg"],
         "found": repr(error.get("input"))[:100]}
        for error in errors[:_SHOWN]
    ]  # fmt: skip
    faults = "; ".join(
        f"{f['field'] or 'body'}: {f['message']}, found {f['found']}" for f in fields
    )
    more = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
    return Problem(status, f"{faults}{more}. /docs describes every request.", errors=fields)


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""
    for class_, problem in _TRANSLATIONS.items():
        app.add_exception_handler(class_, _handler(problem))


def _handler(
    problem: Callable[[Request, Any], Problem],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        return problem(request, error).response(request)

    return handle


def _http(request: Request, error: HTTPException) -> Problem:
    headers = cast("dict[str, str] | None", error.headers)
    if error.status_code == 404:  # noqa: PLR2004
        detail = f"there is nothing at {request.url.path}. /docs lists all paths."
    elif error.status_code == 405:  # noqa: PLR2004
        allowed = (headers or {}).get("allow") or (headers or {}).get("Allow")
        detail = f"{request.url.path} takes {allowed}; found {request.method}. See /docs."
    else:
        detail = str(error.detail)
    return Problem(error.status_code, detail, headers=headers)


def _internal(_request: Request, error: Exception) -> Problem:
    return Problem(
        500,
        f"the request was valid, but the service failed ({type(error).__name__}). "
        "Try again; the service's log has the details.",
    )


_TRANSLATIONS: dict[type[Exception], Callable[[Request, Any], Problem]] = {
    Problem: lambda _request, error: error,
    HTTPException: _http,
    RequestValidationError: lambda _request, error: from_validation(error.errors()),
    MissingMapError: lambda _request, error: Problem(404, str(error), kind="no-map"),
    NotFoundError: lambda _request, error: Problem(404, str(error)),
    UsageError: lambda _request, error: Problem(422, str(error)),
    NotReadyError: lambda _request, error: Problem(
        503, str(error), kind="not-ready", headers={"Retry-After": str(ceil(error.retry_after))}
    ),
    SourceChangedError: lambda _request, error: Problem(
        409,
        str(error),
        kind="source-changed",
        headers={wire.SOURCE_VERSION: str(error.present)},
    ),
    BackstayError: lambda _request, error: Problem(500, str(error)),
    Exception: _internal,
}
