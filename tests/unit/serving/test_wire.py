import io
from dataclasses import replace

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.errors import ServiceError, UsageError
from backstay.serving import wire
from backstay.serving.accept import negotiate
from backstay.serving.found import Found
from backstay.serving.wire import ARROW, BINARY, FORMATS, HALF, JSON, Format

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (ARROW, ARROW),
        (BINARY.upper(), BINARY),
        (f"{JSON};q=0.1, {BINARY};q=0.9", BINARY),
        (f"{JSON};q=0, */*", ARROW),
        (f"*/*;q=0.5, {BINARY};q=0.4", JSON),
        (f"application/*;q=0.2, */*;q=0.9, {BINARY};q=0.3", BINARY),
        ("text/html, */*;q=0.1", JSON),
        (f"{ARROW};charset=utf-8;q=1", ARROW),
        (f" {BINARY} ; q=0.7 , text/plain", BINARY),
        ("text/html", None),
        ("*/*;q=0", None),
        (f"{JSON};q=none", None),
        (",,", None),
        (HALF, HALF),
        (f"{HALF}, {BINARY};q=0.9", HALF),
        (f"{HALF};q=0.5, {BINARY}", BINARY),
        (f'{ARROW}; DTYPE="float16"', f"{ARROW};dtype=float16"),
        (f"{BINARY};dtype=float32", BINARY),
        ("*/*;dtype=float16", f"{ARROW};dtype=float16"),
        (f"{BINARY};dtype=int8", None),
        (f"{JSON};dtype=float16", None),
    ],
)
def test_accept_picks_the_preferred_form(accept, chosen):
    format_ = negotiate(accept)
    assert (format_ and format_.content_type) == chosen


def answer(ids, found, values, *, id_type=None):
    id_type = id_type or pa.int64()
    return Found(
        space="s",
        entity="e",
        version=1,
        source_version=3,
        fingerprint="1" * 16,
        source_fingerprint="3" * 16,
        asked=np.array(ids, np.int64) if id_type == pa.int64() else pa.array(ids, id_type),
        found=np.array(found, bool),
        values=values,
    )


def from_json(body, _headers):
    said = orjson.loads(body)
    return said["ids"], said["embeddings"], said["missing"]


def from_arrow(body, _headers):
    table = pa.ipc.open_stream(io.BytesIO(body)).read_all()
    assert pa.types.is_fixed_size_list(table.schema.field("embedding").type)
    missing = orjson.loads(table.schema.metadata[b"backstay.missing"])
    return table["id"].to_pylist(), table["embedding"].to_pylist(), missing


def from_binary(body, headers, asked):
    values, found = wire.decode_binary(body, headers, asked=len(asked))
    ids = np.array(asked, object)
    return ids[found].tolist(), values.tolist(), ids[~found].tolist()


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.content_type)
@pytest.mark.parametrize("of", ["int64", "string"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_form_carries_every_bit(format_, of, data):
    kind, id_type = {
        "int64": (st.integers(-(2**63), 2**63 - 1), pa.int64()),
        "string": (STRINGS, pa.large_string()),
    }[of]
    asked = data.draw(st.lists(kind, max_size=20))
    found = data.draw(st.lists(st.booleans(), min_size=len(asked), max_size=len(asked)))
    dim = data.draw(st.integers(1, 4))
    rows = st.lists(FLOATS, min_size=dim, max_size=dim)
    values = data.draw(st.lists(rows, min_size=sum(found), max_size=sum(found)))
    array = np.array(values, np.float32).reshape(-1, dim)
    half = format_.dtype == "float16"
    if half:
        array = np.clip(array, -65504, 65504)
    body, headers = wire.encode(answer(asked, found, array, id_type=id_type), format_)
    headers["content-type"] = format_.content_type
    assert (headers[wire.VERSION], headers[wire.SOURCE_VERSION]) == ("1", "3")
    assert (headers[wire.FINGERPRINT], headers[wire.SOURCE_FINGERPRINT]) == ("1" * 16, "3" * 16)
    decode = {
        JSON: from_json,
        ARROW: from_arrow,
        BINARY: lambda body, headers: from_binary(body, headers, asked),
    }[format_.media_type]
    ids, vectors, missing = decode(body, headers)
    assert ids == [id_ for id_, here in zip(asked, found, strict=True) if here]
    assert missing == [id_ for id_, here in zip(asked, found, strict=True) if not here]
    assert np.array_equal(np.array(vectors, np.float32).reshape(-1, dim),
        array.astype(np.float16) if half else array)  # fmt: skip


def test_the_schema_of_an_arrow_stream_names_space_versions_and_fingerprints():
    values = np.zeros((1, 2), np.float32)
    body, _ = wire.encode(answer([7], [True], values), Format(ARROW, "float32"))
    assert pa.ipc.open_stream(body).schema.metadata == {
        b"backstay.space": b"s",
        b"backstay.entity": b"e",
        b"backstay.version": b"1",
        b"backstay.fingerprint": b"1" * 16,
        b"backstay.source_version": b"3",
        b"backstay.source_fingerprint": b"3" * 16,
        b"backstay.missing": b"[]",
    }


@pytest.mark.parametrize("media_type", [ARROW, BINARY])
def test_a_number_too_large_for_float16_is_refused(media_type):
    found = answer([1], [True], np.array([[1.0, 70_000.0]], np.float32))
    with pytest.raises(UsageError, match="up to 65504 for float16; found 70000"):
        wire.encode(found, Format(media_type, "float16"))


def test_an_entity_tag_changes_with_source_version_and_format():
    one = answer([1], [True], np.zeros((1, 2), np.float32))
    others = [replace(one, fingerprint="2" * 16), replace(one, source_fingerprint="2" * 16)]
    tags = {wire.etag(found, FORMATS[0]) for found in [one, *others]}
    tags |= {wire.etag(one, format_) for format_ in FORMATS}
    assert len(tags) == 2 + len(FORMATS)


def test_binary_is_little_endian_row_after_row_with_its_shape():
    values = np.array([[1.0, 2.0], [3.0, -0.5]], np.float32)
    found = [True, False, True] + [False] * 6
    body, headers = wire.encode(answer(range(9), found, values), Format(BINARY, "float32"))
    assert body.hex() == "0000803f0000004000004040000000bf"
    assert (headers["Backstay-Shape"], headers["Backstay-Missing"]) == ("2,2", "7")
    assert headers["Backstay-Found"] == "BQA="  # bits 0 and 2 of nine


def test_the_mask_of_the_largest_request_fits_a_proxys_header():
    mask = np.arange(wire.MAX_IDS) % 2 == 0
    values = np.zeros((mask.sum(), 1), np.float32)
    _, headers = wire.encode(answer(range(wire.MAX_IDS), mask, values), Format(BINARY, "float32"))
    assert len(headers[wire.FOUND]) < 6000


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"\0" * 8, {"Backstay-Shape": "1,2"}),
        (b"\0" * 7, {"Backstay-Shape": "1,2", "Backstay-Missing": "2"}),
        (b"\0" * 8, {"Backstay-Shape": "1,2", "Backstay-Missing": "2"}),
        (b"\0" * 8, {"Backstay-Shape": "1,2", "Backstay-Missing": "0"}),
        (b"\0" * 8, {"Backstay-Shape": "1,2", "Backstay-Missing": "2", "Backstay-Found": "Aw=="}),
        (b"\0" * 8, {"Backstay-Shape": "1,2", "Backstay-Missing": "2", "Backstay-Found": "?"}),
        (b"\0" * 8, {"Backstay-Shape": "two", "Backstay-Missing": "0"}),
    ],
)
def test_an_answer_that_contradicts_its_headers_is_refused(body, headers):
    with pytest.raises(ServiceError, match="Backstay-Shape"):
        wire.decode_binary(body, httpx.Headers(headers), asked=3)
