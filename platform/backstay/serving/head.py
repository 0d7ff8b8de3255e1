"""What the head of a request for vectors asks: headers and query, checked."""

import itertools
import re
import reprlib
import secrets
from typing import NamedTuple
from urllib.parse import parse_qsl

from starlette.types import Scope

from backstay.registry.manifest import is_safe_name
from backstay.serving import compression, wire
from backstay.serving.accept import negotiate
from backstay.serving.problems import Problem

MAX_HEAD_BYTES = 32_768
MAX_PATH_BYTES = 8_192
_MAX_NAME = 200  # characters of a consumer's or an alias's name

_LISTS = frozenset({b"accept", b"accept-encoding", b"if-none-match"})
_SINGLE = frozenset(
    {b"content-type", b"content-length", b"content-encoding"}
    | {
        name.lower().encode()
        for name in (wire.CONSUMER, wire.SOURCE_VERSION, wire.REQUEST_ID, wire.PARTIAL)
    }
)
_DIGITS = 18  # most in a version
_NUMBER = re.compile(rf"[0-9]{{1,{_DIGITS}}}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring = 2, 5, 5, 80
_prefix, _counter = secrets.token_hex(6), itertools.count()

Headers = dict[bytes, bytes]


class Head(NamedTuple):
    """What a request's head asks."""

    format: wire.Format
    encoding: compression.Encoding | None
    consumer: str | None
    source: int | None  # version of the table that must answer
    if_none_match: bytes | None
    partial: bool  # ids of lost shards may be left out


def request_id(scope: Scope) -> str:
    """The id that the client gave the request, if it is a safe one; otherwise a new one."""
    for name, value in scope["headers"]:
        if name == b"backstay-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return f"{_prefix}-{next(_counter)}"


def check_size(scope: Scope) -> None:
    """Refuse a path or headers that are too long, and a path that is not UTF-8."""
    path = scope.get("raw_path") or b""
    if len(path) + len(scope["query_string"]) > MAX_PATH_BYTES:
        raise Problem(
            414, f"path and query may have {MAX_PATH_BYTES} bytes. Send long ids with POST."
        )
    size = 0
    for name, value in scope["headers"]:
        size += len(name) + len(value)
    if size > MAX_HEAD_BYTES:
        raise Problem(431, f"all headers together may have {MAX_HEAD_BYTES} bytes; found {size}.")
    if "\N{REPLACEMENT CHARACTER}" in scope["path"] and b"%EF%BF%BD" not in path.upper():
        raise Problem(400, "the path must be UTF-8, percent-encoded. Encode the id anew.")


def headers_of(scope: Scope) -> Headers:
    """The headers by name. Lists that came in parts are joined; contradictions are refused."""
    pairs = scope["headers"]
    headers = dict(pairs)
    if len(headers) == len(pairs):
        return headers
    headers = {}
    for name, value in pairs:
        before = headers.get(name)
        if before is not None and name in _LISTS:
            headers[name] = before + b", " + value
        elif before not in {None, value} and name in _SINGLE:
            raise Problem(
                400,
                f"the header {name.decode()} must be sent once; found {_shown(before or b'')} and "
                f"{_shown(value)}.",
            )
        else:
            headers[name] = value
    return headers


def read_head(headers: Headers) -> Head:
    """Read what the headers ask; Problem where one is malformed or can't be met."""
    accept = headers.get(b"accept", b"").decode("latin-1")
    format_ = negotiate(accept)
    if format_ is None:
        raise Problem(
            406,
            f"Accept must allow one of {', '.join(wire.MEDIA_TYPES)}; found {accept!r:.200}. "
            "Without Accept, the answer is JSON.",
            available=[each.content_type for each in wire.FORMATS],
        )
    encoding = headers.get(b"accept-encoding")
    consumer = headers.get(b"backstay-consumer")
    source = headers.get(b"backstay-source-version")
    return Head(
        format_,
        compression.negotiate(encoding.decode("latin-1")) if encoding else None,
        None if consumer is None else _consumer(consumer),
        None if source is None else _source(source),
        headers.get(b"if-none-match"),
        b"backstay-partial" in headers and _partial(headers[b"backstay-partial"]),
    )


def query_version(query: bytes) -> int | str | None:
    """The version that a query string asks for: a number, a name, or None."""
    if not query:
        return None
    key, _, digits = query.partition(b"=")
    if key == b"version" and digits.isdigit() and len(digits) <= _DIGITS:
        return int(digits)  # by far the most frequent query
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:  # UnicodeDecodeError included
        raise Problem(400, "the query must be UTF-8, percent-encoded.") from None
    values = set()
    for name, value in pairs:
        if name != "version":
            raise invalid("query", "`version` and nothing else", name)
        values.add(value)
    if len(values) > 1:
        raise invalid("version", "one value", sorted(values))
    return parse_version(values.pop()) if values else None


def parse_version(text: str) -> int | str:
    """A version as text: its number, or a name; Problem if it can be neither."""
    if _NUMBER.fullmatch(text):
        return int(text)
    if not is_safe_name(text) or len(text) > _MAX_NAME or text[0] in "+-" or text.isdecimal():
        raise invalid("version", "a number from 0, an alias or `latest`", text)
    return text


def invalid(field: str, expected: str, found: object) -> Problem:
    """The problem of one invalid field."""
    shown = short(found)
    return Problem(
        422,
        f"{field} must be {expected}; found {shown}. /docs describes every request.",
        errors=[{"field": field, "expected": expected, "found": shown}],
    )


def short(value: object) -> str:
    """A value for a message, cut if it is long or nested."""
    return _SHORT.repr(value)


def _consumer(value: bytes) -> str:
    name = value.decode("latin-1")
    if not is_safe_name(name) or len(name) > _MAX_NAME:
        raise Problem(400, f"{wire.CONSUMER} must be a consumer's name; found {_shown(value)}.")
    return name


def _source(value: bytes) -> int:
    if not _NUMBER.fullmatch(text := value.decode("latin-1")):
        raise Problem(
            400, f"{wire.SOURCE_VERSION} must be a version's number; found {_shown(value)}."
        )
    return int(text)


def _partial(value: bytes) -> bool:
    if value not in {b"true", b"false"}:
        raise Problem(400, f"{wire.PARTIAL} must be true or false; found {_shown(value)}.")
    return value == b"true"


def _shown(value: bytes) -> str:
    return repr(value.decode("latin-1")[:100])
