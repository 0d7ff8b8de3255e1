"""Errors over HTTP: each failed request is answered with an RFC 9457 problem document.

{"type": "urn:backstay:problem:not-found", "title": "Not found", "status": 404,
 "detail": what was expected, what was found, and what to do,
 "instance": the path, "errors": one entry per invalid field, if fields are invalid}
"""

import logging
from collections.abc import Awaitable, Callable
from math import ceil
from typing import cast
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Request, Response
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
from backstay.serving.answer import Answer

logger = logging.getLogger("backstay.serving")

KINDS = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    408: "request-timeout",
    409: "source-changed",
    413: "too-large",
    414: "uri-too-long",
    415: "unsupported-media-type",
    422: "invalid-request",
    431: "headers-too-large",
    500: "internal-error",
    503: "unavailable",
}


_STATUSES: dict[type[Exception], tuple[int, str]] = {
    MissingMapError: (404, "no-map"),
    NotFoundError: (404, "not-found"),
    UsageError: (422, "invalid-request"),
    BackstayError: (500, "internal-error"),
}


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
        self.kind = kind or KINDS.get(status, "http-error")
        self.headers = headers or {}
        self.members = members

    def answer(self, path: str) -> Answer:
        """The answer to a request for `path`."""
        body = {
            "type": f"urn:backstay:problem:{self.kind}",
            "title": self.kind.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "instance": quote(path),
            **self.members,
        }
        content = orjson.dumps(body, default=str)
        return Answer(self.status, {"Content-Type": wire.PROBLEM, **self.headers}, content)


def problem_of(error: Exception) -> Problem:
    """The problem that tells a client about an error. Unexpected errors are logged."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, NotReadyError):
        return Problem(503, str(error), kind="not-ready", headers=retry(error.retry_after))
    if isinstance(error, SourceChangedError):
        return Problem(409, str(error), headers={wire.SOURCE_VERSION: str(error.present)})
    for class_, (status, kind) in _STATUSES.items():
        if isinstance(error, class_):
            return Problem(status, str(error), kind=kind)
    logger.error("a request failed", exc_info=error)
    return Problem(
        500,
        f"the request was valid, but the service failed ({type(error).__name__}). "
        "Try again; the service's log has the details.",
    )


def retry(seconds: float) -> dict[str, str]:
    """The header that says when to try again."""
    return {"Retry-After": str(max(ceil(seconds), 1))}


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""
    for class_ in (Problem, BackstayError, Exception):
        app.add_exception_handler(class_, _handler(problem_of))
    app.add_exception_handler(HTTPException, _http)


def _handler(
    problem: Callable[[Exception], Problem],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        return response(problem(error).answer(request.scope["path"]))

    return handle


def response(answer: Answer) -> Response:
    """An answer as Starlette's routes return it."""
    return Response(answer.body, answer.status, dict(answer.headers))


async def _http(request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    headers = dict(error.headers or {})
    path = request.scope["path"]
    if error.status_code == 404:  # noqa: PLR2004
        detail = f"there is nothing at {path}. /docs lists all paths."
    elif error.status_code == 405:  # noqa: PLR2004
        allowed = headers.get("allow") or headers.get("Allow")
        detail = f"{path} takes {allowed}; found {request.method}. See /docs."
    else:
        detail = str(error.detail)
    return response(Problem(error.status_code, detail, headers=headers).answer(path))
