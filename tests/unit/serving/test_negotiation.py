"""What headers change: format, compression, version, table, and whether there is a body at all."""

import asyncio
import gzip

import httpx
import numpy as np
import pyarrow as pa
import pytest

from backstay.registry.aliases import promote
from backstay.serving import compression, wire
from backstay.serving.app import build_app
from backstay.serving.lookup import Lookup
from tests.support import served
from tests.support.served import ITEMS, SPACE, USERS, listening, slowly

USER = f"/v1/spaces/{SPACE}/user"


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("ZSTD;q=0.5, gzip;q=0.9", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=1.5;x, zstd;q=none", "gzip"),
        ("*", "zstd"),
        ("*, zstd;q=0", None),
        ("*;q=0.1, gzip;q=0.2, zstd;q=0", "gzip"),
        ("gzip;q=0.5, identity", None),
        (",;,", None),
    ],
)
def test_accept_encoding_picks_the_preferred_compression(accepted, chosen):
    assert compression.negotiate(accepted) == chosen


@pytest.mark.parametrize("media_type", [wire.JSON, wire.ARROW])
@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_large_answers_are_compressed_and_hold_the_same(http, encoding, media_type):
    asked = {"ids": USERS.tolist() * 15}
    headers = {"Accept": media_type, "Accept-Encoding": "identity"}
    plain = http.post(f"{USER}/lookup", json=asked, headers=headers)
    assert "content-encoding" not in plain.headers
    headers["Accept-Encoding"] = encoding
    with http.stream("POST", f"{USER}/lookup", json=asked, headers=headers) as response:
        assert response.headers["content-encoding"] == encoding
        body = b"".join(response.iter_raw())
    assert len(body) == int(response.headers["content-length"]) < len(plain.content)
    unpacked = (
        gzip.decompress(body)
        if encoding == "gzip"
        else pa.CompressedInputStream(pa.py_buffer(body), "zstd").read()
    )
    assert unpacked == plain.content


@pytest.mark.parametrize("ids", [[5], USERS.tolist() * 15])
def test_small_and_binary_answers_are_not_compressed(http, ids):
    accept = wire.JSON if len(ids) == 1 else wire.BINARY
    headers = {"Accept": accept, "Accept-Encoding": "zstd, gzip"}
    response = http.post(f"{USER}/lookup", json={"ids": ids}, headers=headers)
    assert "content-encoding" not in response.headers


def test_a_vector_that_has_not_changed_is_not_sent_again(http):
    first = http.get(f"{USER}/5?version=0")
    tag = first.headers["ETag"]
    for asked in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again = http.get(f"{USER}/5?version=0", headers={"If-None-Match": asked})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == tag
        assert again.headers["Backstay-Version"] == "0"
        assert again.headers["Vary"] == first.headers["Vary"]
    for asked in ('"other"', "", tag[:-2]):
        assert http.get(f"{USER}/5?version=0", headers={"If-None-Match": asked}).is_success


@pytest.mark.parametrize("accept", wire.MEDIA_TYPES)
def test_a_tag_of_another_version_or_format_matches_nothing(http, accept):
    tag = http.get(f"{USER}/5?version=1").headers["ETag"]
    headers = {"If-None-Match": tag, "Accept": accept}
    assert http.get(f"{USER}/5?version=0", headers=headers).status_code == 200
    same = accept == wire.JSON
    status = 304 if same else 200
    assert http.get(f"{USER}/5?version=1", headers=headers).status_code == status
    assert http.get(f"{USER}/41?version=1", headers=headers).status_code == 404


def test_float16_on_request(http):
    ids = USERS.tolist()
    response = http.post(f"{USER}/lookup", json={"ids": ids}, headers={"Accept": wire.HALF})
    assert response.headers["content-type"] == wire.HALF
    values, _ = wire.decode_binary(response.content, response.headers, asked=len(ids))
    assert values.dtype == np.float16
    expected = slowly("user", ids, version=2, source=2).astype(np.float16)
    np.testing.assert_allclose(values, expected, rtol=2e-3)
    arrow = http.get(f"{USER}/5", headers={"Accept": f"{wire.ARROW}; dtype=float16"})
    assert (
        pa.ipc.open_stream(arrow.content).schema.field("embedding").type.value_type == "halffloat"
    )


@pytest.mark.parametrize(
    ("version", "answered"), [(None, 2), ("latest", 2), (1, 1), ("stable", 1), ("-", None)]
)
def test_a_version_is_a_number_an_alias_latest_or_nothing(tmp_path, version, answered):
    registry = served.build(tmp_path / "registry")
    space = registry.space(SPACE)
    promote(space, 1, alias="stable")
    with Lookup(registry, cache=tmp_path / "cache") as lookup, listening(build_app(lookup)) as url:
        query = {} if version is None else {"version": version}
        one = httpx.get(f"{url}{USER}/5", params=query)
        many = httpx.post(f"{url}{USER}/lookup", json={"ids": [5], "version": version})
    for response in (one, many):
        if answered is None:
            assert response.status_code == 422
        else:
            assert response.headers["Backstay-Version"] == str(answered)


def test_the_named_table_must_answer(http):
    for source, status in (("2", 200), ("1", 409)):  # version 2 is not in a table of version 1
        headers = {"Backstay-Source-Version": source}
        answers = [
            http.get(f"{USER}/5?version=2", headers=headers),
            http.post(f"{USER}/lookup", json={"ids": [5], "version": 2}, headers=headers),
        ]
        for response in answers:
            assert response.status_code == status
            assert response.headers["Backstay-Source-Version"] == "2"


def test_paths_behind_a_prefix_are_answered_the_same(lookup):
    app = build_app(lookup)
    transport = httpx.ASGITransport(app, root_path="/api")

    async def ask():
        async with httpx.AsyncClient(transport=transport, base_url="http://x/api") as client:
            return [
                await client.get(f"{USER}/5?version=0"),
                await client.post(f"{USER}/lookup", json={"ids": [5, 41], "version": 0}),
                await client.get(f"{USER}/41"),
            ]

    one, many, unknown = asyncio.run(ask())
    np.testing.assert_allclose(
        one.json()["embedding"], slowly("user", [5], version=0, source=2)[0], rtol=1e-5
    )
    assert many.json()["missing"] == [41]
    assert unknown.status_code == 404
    assert all(answer.headers["backstay-request-id"] for answer in (one, many, unknown))


def test_more_requests_than_it_can_answer_are_refused_at_once(lookup):
    app = build_app(lookup)
    app.state.vectors._most_in_flight = 0
    with listening(app) as url:
        refused = httpx.post(f"{url}{USER}/lookup", json={"ids": [5]})
        assert httpx.get(f"{url}/healthz").is_success
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:backstay:problem:overloaded"
    assert int(refused.headers["Retry-After"]) > 0


def test_string_ids_of_any_form_come_back(http):
    response = http.post(f"/v1/spaces/{SPACE}/item/lookup", json={"ids": ITEMS})
    assert response.json()["ids"] == ITEMS
