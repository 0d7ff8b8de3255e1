"""Small JSON documents: bytes that depend on nothing but the value, and checked reading."""

import json
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from backstay.errors import CorruptError, InputError

JsonObject = dict[str, Any]
"""A JSON object as Python reads it."""

T = TypeVar("T")


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
