"""Small JSON documents: bytes that depend on nothing but the value, and checked reading."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from backstay.errors import CorruptError, InputError

JsonObject = dict[str, Any]
"""A JSON object as Python reads it."""

T = TypeVar("T")

CHECKSUM = "checksum"
"""The field of a sealed document that holds the SHA-256 of the document without it."""


def canonical_json(value: object, *, what: str) -> bytes:
    """Sorted, indented UTF-8 JSON; InputError where `value`, named `what`, has no JSON form."""
    try:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} must be JSON: finite numbers, strings, lists, dicts ({error})."
        ) from error
    return (text + "\n").encode()


def parse_object(data: bytes, *, path: str) -> JsonObject:
    """A JSON object out of a stored file; CorruptError where it is none."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise CorruptError(f"{path} is no JSON ({error}); restore it from a copy.") from error
    if not isinstance(value, dict):
        raise CorruptError(f"{path} must hold a JSON object; found {type(value).__name__}.")
    return cast("JsonObject", value)


def parse_document(adapter: TypeAdapter[T], data: bytes, *, path: str) -> T:
    """A typed value out of a stored JSON file; CorruptError where a field is wrong."""
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        raise CorruptError(
            f"{path} is damaged ({first_fault(error)}); restore it from a copy."
        ) from error


def seal(value: Mapping[str, object], *, what: str) -> bytes:
    """Canonical JSON of `value` and its checksum, so that a changed byte is found at reading."""
    digest = hashlib.sha256(canonical_json(dict(value), what=what)).hexdigest()
    return canonical_json({**value, CHECKSUM: digest}, what=what)


def parse_sealed(adapter: TypeAdapter[T], data: bytes, *, path: str, unsealed: bool = False) -> T:
    """A typed value out of a sealed document; CorruptError where any byte was changed.

    `unsealed`: accept a document without a checksum, as earlier releases wrote it.
    """
    value = parse_object(data, path=path)
    intact = unsealed
    if value.pop(CHECKSUM, None) is not None:
        intact = seal(value, what=path) == data
    document = parse_document(adapter, json.dumps(value).encode(), path=path)
    unknown = value.keys() - adapter.dump_python(document, by_alias=True).keys()
    if not intact or unknown:
        raise CorruptError(
            f"{path} does not match its own checksum: it was changed after it was written. "
            "Restore it from a copy."
        )
    return document


def first_fault(error: ValidationError) -> str:
    """The first fault that pydantic found in a document, in a few words of ours."""
    fault = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(map(str, fault["loc"]))
    match fault["type"]:
        case "json_invalid":
            return "it is no JSON"
        case "missing":
            return f"{field} is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{field} is unknown"
    expected = fault["msg"].removeprefix("Input should be ")
    return f"expected {f'{field} to be ' if field else ''}{expected}, found {fault['input']!r:.60}"
