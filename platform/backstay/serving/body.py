"""The body of a look-up: read within limits, and checked."""

import asyncio
import json
from typing import NamedTuple

import orjson
from starlette.types import Receive

from backstay.serving import wire
from backstay.serving.head import Headers, invalid, parse_version, short
from backstay.serving.problems import Problem

_BYTES_PER_ID = 512  # limit of a request's body; some ids may be longer if others are shorter
_SHOWN = 5  # most invalid ids in a problem
_CLOSE = {"Connection": "close"}  # the rest of the body is not read


class Asked(NamedTuple):
    """What the body of a look-up asks."""

    ids: list[int] | list[str]
    version: int | str | None


async def read_body(receive: Receive, headers: Headers, *, max_ids: int, seconds: float) -> bytes:
    """Read a JSON body.

    Raises Problem if its type is wrong, it is longer than `max_ids` ids may need, or takes longer
    than `seconds`; all but the last before any of it is read, where the headers tell.
    """
    content_type = headers.get(b"content-type")
    if content_type is not None and not _is_json(content_type):
        found = content_type.decode("latin-1")
        raise _unsupported(f"the body must be {wire.JSON}; found {found!r:.100}. Set Content-Type.")
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        raise _unsupported("the body must not be compressed; remove Content-Encoding.")
    most = 4096 + _BYTES_PER_ID * max_ids
    length = headers.get(b"content-length", b"")
    if length.isdigit() and (len(length) > len(str(most)) or int(length) > most):
        raise too_large(max_ids, f"a body of {length.decode():.20} bytes; {most} are allowed")
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive, most, max_ids)
    except TimeoutError:
        raise Problem(
            408, f"the body must arrive within {seconds:g} s. Send it again.", headers=_CLOSE
        ) from None


async def _read(receive: Receive, most: int, max_ids: int) -> bytes:
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "the connection was closed before the end of the body.")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise too_large(max_ids, f"a body of more than {most} bytes")
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def parse_body(body: bytes, *, max_ids: int) -> Asked:
    """Parse a look-up; Problem 400 if it is not JSON, 413 or 422 if it is not a valid look-up."""
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(
            400,
            "the body must be JSON in UTF-8, at most 1,000 levels deep; found something else at "
            f"line {error.lineno}, column {error.colno}.",
        ) from None
    if not isinstance(asked, dict):
        raise invalid("body", 'an object such as {"ids": [1, 2]}', asked)
    for key in asked.keys() - {"ids", "version"}:
        raise invalid("body", "an object of `ids` and `version`", key)
    if "ids" not in asked:
        raise invalid("ids", "given", asked)
    parsed = Asked(_ids(asked["ids"], max_ids), _version(asked.get("version")))
    if body.count(b'"ids"') > 1 or body.count(b'"version"') > 1 or b"\\u" in body:
        _refuse_repeated_keys(body)  # an id may be the word "ids", or be escaped: look closer
    return parsed


def too_large(max_ids: int, found: str) -> Problem:
    """The problem of a request for too much."""
    return Problem(
        413,
        f"a request may ask for up to {max_ids} ids; found {found}. Split the request.",
        limit=max_ids,
        headers=_CLOSE,
    )


def _ids(ids: object, max_ids: int) -> list[int] | list[str]:
    if not isinstance(ids, list):
        raise invalid("ids", "a list", ids)
    if len(ids) > max_ids:
        raise too_large(max_ids, f"{len(ids)} ids")
    if not set(map(type, ids)) <= {int, str}:
        expected = "an integer or a string"
        wrong = [(n, id_) for n, id_ in enumerate(ids) if type(id_) not in {int, str}]
        problem = invalid(f"ids.{wrong[0][0]}", expected, wrong[0][1])
        if len(wrong) > 1:
            problem.detail += f" {len(wrong) - 1} more ids are invalid."
        problem.members["errors"] = [
            {"field": f"ids.{n}", "expected": expected, "found": short(id_)}
            for n, id_ in wrong[:_SHOWN]
        ]
        raise problem
    return ids


def _version(version: object) -> int | str | None:
    if type(version) is int and version >= 0:
        return version
    if version is None:
        return None
    if isinstance(version, str) and not version.isdecimal():
        return parse_version(version)
    raise invalid("version", "a number from 0, an alias or `latest`", version)


def _refuse_repeated_keys(body: bytes) -> None:
    def checked(pairs: list[tuple[str, object]]) -> None:
        if len(dict(pairs)) < len(pairs):
            raise invalid("body", "an object in which each key stands once", body.decode())

    try:
        json.loads(body, object_pairs_hook=checked)
    except RecursionError:  # in a value that a later key of the same name replaced
        checked([("", None)] * 2)


def _is_json(content_type: bytes) -> bool:
    return (
        content_type == b"application/json"
        or content_type.partition(b";")[0].strip().lower() == b"application/json"
    )


def _unsupported(detail: str) -> Problem:
    return Problem(415, detail, headers={"Accept": wire.JSON, **_CLOSE})
