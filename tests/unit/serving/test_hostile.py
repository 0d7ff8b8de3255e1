"""Requests that are malformed or too large, sent as bytes to a real server: each gets its 4xx."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from backstay.serving.app import build_app
from tests.support.served import SPACE, listening

ITEM = f"/v1/spaces/{SPACE}/item"
LOOKUP = f"/v1/spaces/{SPACE}/user/lookup"
JSON = "Content-Type: application/json"


def exchange(url, request, *, then=b""):
    """Send bytes; the status, headers and JSON body of the answer."""
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), 20) as connection:
        connection.sendall(request)
        if then:
            connection.sendall(then)
        file = connection.makefile("rb")
        status = int(file.readline().split()[1])
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        body = file.read(int(headers.get("content-length", 0)))
    return status, headers, body


def problem_of(url, request, status):
    found, headers, body = exchange(url, request)
    assert found == status, body
    assert headers["content-type"] == "application/problem+json"
    assert headers["backstay-request-id"]
    problem = json.loads(body)
    assert problem["status"] == status
    assert "pydantic" not in problem["detail"]
    assert "Traceback" not in problem["detail"]
    return problem


def get(path, *headers):
    lines = [f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(body, *headers, path=LOOKUP):
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@pytest.mark.parametrize(
    ("id_", "shown"),
    [
        ("../../../etc/passwd", "../../../etc/passwd"),
        ("..%2F..%2Fetc%2Fpasswd", "../../etc/passwd"),
        ("%00", "\\x00"),
        ("a%0D%0ASet-Cookie:%20x=1", "a\\r\\nSet-Cookie: x=1"),
        ("//x", "//x"),
        ("%EF%BF%BD", "\N{REPLACEMENT CHARACTER}"),
        ("%2e%2e", ".."),
    ],
)
def test_ids_that_look_like_paths_are_ids(url, id_, shown):
    problem = problem_of(url, get(f"{ITEM}/{id_}"), 404)
    assert f"has no id {shown!r}".replace("\\\\", "\\") in problem["detail"]


@pytest.mark.parametrize("path", [f"{ITEM}/%FF", f"{ITEM}/caf%E9", "/v1/spaces/%C3%28"])
def test_a_path_that_is_not_utf_8_is_refused(url, path):
    assert "UTF-8" in problem_of(url, get(path), 400)["detail"]


def test_a_request_line_with_raw_bytes_gets_no_answer_but_400(url):
    status, _, _ = exchange(url, get(f"{ITEM}/é"))
    assert status == 400


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("version=-1", 422, "'-1'"),
        ("version=NaN", 404, "no alias 'NaN'"),
        ("version=1.5", 404, "no alias '1.5'"),
        ("version=1e400", 404, "no alias '1e400'"),
        ("version=%2B1", 422, "'+1'"),
        ("version=" + "9" * 4000, 422, "a number from 0"),
        ("version=..%2F..", 422, "a number from 0"),
        ("version=%D9%A1", 422, "a number from 0"),
        ("version=", 422, "found ''"),
        ("version=%FF", 400, "UTF-8"),
        ("version=0&version=1", 422, "one value"),
        ("verison=0", 422, "found 'verison'"),
        ("x" * 9000, 414, "8192 bytes"),
    ],
)
def test_versions_that_can_not_be_are_refused(url, query, status, says):
    path = f"/v1/spaces/{SPACE}/user/5?{query}"
    assert says in problem_of(url, get(path), status)["detail"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"ids": [1], "version": NaN}', 400, "line 1, column 25"),
        (b'{"ids": [1], "version": -1}', 422, "found -1"),
        (b'{"ids": [1], "version": 1.0}', 422, "found 1.0"),
        (b'{"ids": [1], "version": 1e400}', 400, "JSON"),
        (b'{"ids": [1], "version": "-1"}', 422, "found '-1'"),
        (b'{"ids": [1], "version": "../x"}', 422, "found '../x'"),
        (b'{"ids": [1], "version": 99999999999999999999}', 422, "version"),
        (b'{"ids": [1], "ids": [2]}', 422, "each key stands once"),
        (b'{"ids": [1], "version": 0, "version": 1}', 422, "each key stands once"),
        (b'{"ids": [1], "\\u0069ds": [2]}', 422, "each key stands once"),
        (b"[" * 100_000, 413, "ids"),
        (b"[" * 20_000, 400, "1,000 levels"),
        (
            b'{"ids": ' + b"[" * 1000 + b"]" * 1000 + b"}",
            422,
            "ids.0 must be an integer or a string; found [[[...]]]",
        ),
        (b'{"ids": ' + b"[" * 1000 + b"]" * 1000 + b', "\\u0069ds": [1]}', 422, "once"),
        (b'{"ids": [{"id": 1}]}', 422, "ids.0 must be an integer or a string"),
        (b'{"ids": ["\\ud800"]}', 400, "JSON in UTF-8"),
        (b'{"ids": [1]}\x00', 400, "JSON"),
        (b"\xef\xbb\xbf{}", 400, "JSON"),
        (b'{"ids": [1], "' + b"k" * 1000 + b'": 0}', 422, "`ids` and `version`"),
    ],
    ids=range(19),
)
def test_bodies_that_are_no_look_up_are_refused(url, body, status, says):
    problem = problem_of(url, post(body, JSON), status)
    assert says in problem["detail"]
    assert len(problem["detail"]) < 500


def test_an_id_may_be_the_name_of_a_key(url):
    body = b'{"ids": ["ids", "\\u0069ds", "version"]}'
    status, _, answer = exchange(url, post(body, JSON, path=f"{ITEM}/lookup"))
    assert status == 200
    assert json.loads(answer)["missing"] == ["ids", "ids", "version"]


def test_ten_million_ids_are_refused_before_they_are_sent(url):
    head = f"POST {LOOKUP} HTTP/1.1\r\nHost: x\r\n{JSON}\r\nContent-Length: 80000000\r\n\r\n"
    problem = problem_of(url, head.encode(), 413)
    assert problem["limit"] == 100
    assert "80000000 bytes" in problem["detail"]


def test_ten_million_ids_in_chunks_are_refused_on_the_way(url):
    head = f"POST {LOOKUP} HTTP/1.1\r\nHost: x\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"1," * 0x8000 + b"\r\n"
    assert "of more than" in problem_of(url, head.encode() + chunk, 413)["detail"]


def test_a_slow_body_gets_408_and_the_connection_ends(lookup):
    app = build_app(lookup)
    app.state.vectors._body_seconds = 0.2
    with listening(app) as url:
        request = f"POST {LOOKUP} HTTP/1.1\r\nHost: x\r\n{JSON}\r\nContent-Length: 50\r\n\r\n"
        status, headers, body = exchange(url, request.encode(), then=b'{"ids": [')
    assert status == 408
    assert headers["connection"] == "close"
    assert "within 0.2 s" in json.loads(body)["detail"]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "multipart/form-data", "application/json-patch+json", ""]
)
def test_content_types_that_are_no_json_are_refused(url, content_type):
    problem = problem_of(url, post(b'{"ids": [5]}', f"Content-Type: {content_type}"), 415)
    assert repr(content_type) in problem["detail"]


def test_a_compressed_body_is_refused(url):
    problem = problem_of(url, post(b"\x1f\x8b", JSON, "Content-Encoding: gzip"), 415)
    assert "Content-Encoding" in problem["detail"]


@pytest.mark.parametrize("accept", ["text/html", "é", "application/json;q=0", ",;,;", "x" * 5000])
def test_an_accept_that_can_not_be_met_is_refused(url, accept):
    problem = problem_of(url, get(f"{ITEM}/tt1", f"Accept: {accept}"), 406)
    assert len(problem["detail"]) < 500


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        (["Backstay-Source-Version: 1", "Backstay-Source-Version: 2"], 400, "sent once"),
        (["Backstay-Consumer: a", "Backstay-Consumer: b"], 400, "sent once"),
        (["Backstay-Source-Version: -1"], 400, "a version's number"),
        (["Backstay-Source-Version: NaN"], 400, "a version's number"),
        (["Backstay-Consumer: ../../x"], 400, "a consumer's name"),
        (["Backstay-Consumer: " + "x" * 300], 400, "a consumer's name"),
        (["Backstay-Source-Version: 1"], 409, "version 2"),
        (["X: " + "x" * 40_000], 431, "32768 bytes"),
        ([f"X-{n}: x" for n in range(8000)], 431, "32768 bytes"),
    ],
    ids=range(9),
)
def test_headers_that_contradict_or_are_too_long_are_refused(url, headers, status, says):
    assert says in problem_of(url, get(f"{ITEM}/tt1?version=2", *headers), status)["detail"]


def test_two_lengths_of_one_body_are_refused(url):
    request = post(b'{"ids": [5]}', JSON, "Content-Length: 3")
    status, _, _ = exchange(url, request)
    assert status == 400


def test_a_request_id_with_line_breaks_or_markup_is_replaced(url):
    for given in ("a b", "<script>", "x" * 65, "é"):
        _, headers, _ = exchange(url, get(f"{ITEM}/tt1", f"Backstay-Request-Id: {given}"))
        assert headers["backstay-request-id"] != given
    _, headers, _ = exchange(url, get(f"{ITEM}/tt1", "Backstay-Request-Id: mine-1.x_2"))
    assert headers["backstay-request-id"] == "mine-1.x_2"
