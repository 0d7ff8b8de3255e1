"""Requests to the service, and the check of its answers. Sends nothing itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.util import find_spec
from urllib.parse import quote

import httpx
import orjson
import pyarrow as pa

from backstay.errors import MissingMapError, NotFoundError, ServiceError
from backstay.serving import wire
from backstay.serving.client.attempts import Outcome, is_problem, tls_failure

_HTTPX_READS_ZSTD = find_spec("zstandard") is not None


@dataclass(frozen=True)
class Request:
    """An HTTP request without the service's URL."""

    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class SourceChanged(Exception):  # noqa: N818 - caught by the clients, which then start again
    """The table that the first page came from can't be read any more."""


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


SPACES = Request("GET", "/v1/spaces")


def space_request(name: str) -> Request:
    """Ask for the description of a space."""
    return Request("GET", f"/v1/spaces/{segment(name)}")


def body_of(answer: httpx.Response) -> bytes:
    """The body, decompressed. httpx decodes gzip, and zstd only with a further package."""
    if answer.headers.get("content-encoding", "").strip().lower() != "zstd" or _HTTPX_READS_ZSTD:
        return answer.content
    try:
        with pa.CompressedInputStream(pa.py_buffer(answer.content), "zstd") as stream:
            return bytes(stream.read())
    except (OSError, pa.ArrowException) as error:
        raise ServiceError(
            f"expected a body in zstd, found one that can't be decompressed ({error}). "
            "Try again without compression."
        ) from error


def checked(outcome: Outcome, *, url: str, seconds: float) -> httpx.Response:
    """The final answer to a request if it is a success; else raise what it means.

    Args:
        outcome: Of the last attempt.
        url: Of the service, for messages.
        seconds: Since the first attempt began.
    """
    if isinstance(outcome, httpx.Response):
        if outcome.is_success:
            # httpx's stream refers back to the answer, whose bytes would wait for the collector.
            outcome.stream = httpx.ByteStream(b"")
            return outcome
        raise _refusal(outcome, url)
    why = str(outcome) or type(outcome).__name__
    if tls_failure(outcome):
        raise ServiceError(
            f"no secure connection to {url} ({why}). Pass the file with the certificate of its "
            "authority (verify=…)."
        ) from outcome
    raise ServiceError(
        f"no answer from {url} within {seconds:.1f} s ({why}). "
        "Check the URL; `backstay serve` starts a service."
    ) from outcome


def _refusal(answer: httpx.Response, url: str) -> Exception:
    status, problem = answer.status_code, _problem(answer)
    kind = str(problem.get("type", "")).rpartition(":")[2]
    detail = str(problem.get("detail", f"{answer.reason_phrase} {answer.text[:200]!r}"))
    if status == HTTPStatus.CONFLICT and kind == "source-changed":
        return SourceChanged(detail)
    if status == HTTPStatus.NOT_FOUND and problem:  # a proxy also answers 404
        return (MissingMapError if kind == "no-map" else NotFoundError)(detail)
    if answer.has_redirect_location:
        detail = f"it redirects to {answer.headers['location']}. Use that URL"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        detail += " Ask for fewer ids in one request (batch=…)."
    if status == HTTPStatus.UNAUTHORIZED:
        detail += " Pass the token (token=…), or set BACKSTAY_TOKEN."
    id_ = answer.headers.get(wire.REQUEST_ID)
    return ServiceError(f"{url} answered {status}{f' to request {id_}' if id_ else ''}: {detail}")


def _problem(answer: httpx.Response) -> Mapping[str, object]:
    """The problem document of a refusal; empty if it has none."""
    if not is_problem(answer):
        return {}
    try:
        document = orjson.loads(body_of(answer))
    except (orjson.JSONDecodeError, ServiceError):
        return {}
    return document if isinstance(document, dict) else {}
