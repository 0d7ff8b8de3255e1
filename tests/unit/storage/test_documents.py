from dataclasses import dataclass

import pytest
from pydantic import TypeAdapter

from backstay.errors import CorruptError, InputError
from backstay.storage.documents import canonical_json, parse_document, parse_object


@dataclass(frozen=True)
class Record:
    rows: int
    parts: tuple[str, ...]


ADAPTER = TypeAdapter(Record)


def test_the_bytes_depend_on_the_value_alone():
    assert canonical_json({"b": 1, "a": "ö"}, what="x") == '{\n  "a": "ö",\n  "b": 1\n}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_what_has_no_json_form_is_refused(value):
    with pytest.raises(InputError, match="metrics must be JSON"):
        canonical_json({"a": value}, what="metrics")


def test_a_document_comes_back_with_its_types():
    data = canonical_json({"rows": 2, "parts": ["a"]}, what="x")
    assert parse_document(ADAPTER, data, path="x") == Record(2, ("a",))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"{", "it is no JSON"),
        (b"[]", r"expected an object, found \[\]"),
        (b'{"rows": 1}', "parts is missing"),
        (b'{"rows": "x", "parts": []}', "expected rows to be a valid integer.*, found 'x'"),
        (b'{"rows": 1, "parts": [2]}', "expected parts.0 to be a valid string, found 2"),
    ],
)
def test_the_first_fault_is_named_in_our_words(data, fault):
    with pytest.raises(CorruptError, match=rf"^x is damaged \({fault}\); restore it") as caught:
        parse_document(ADAPTER, data, path="x")
    assert "pydantic" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[1]", b"1"])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(CorruptError, match=r"x (is no JSON|must hold a JSON object)"):
        parse_object(data, path="x")
