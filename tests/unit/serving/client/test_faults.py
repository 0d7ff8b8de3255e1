"""Both clients when the service fails, changes or refuses."""

import gc
import gzip
import socket
import ssl
import threading
import weakref
from contextlib import contextmanager

import httpx
import numpy as np
import pyarrow as pa
import pytest

from backstay.errors import MissingMapError, NotFoundError, ServiceError, UsageError
from backstay.serving import wire
from tests.support.certificates import self_signed
from tests.support.clients import FakeService, opened, problem

IDS = list(range(20))


def vectors_of(source, ids=IDS):
    return [[id_, source] for id_ in ids]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "fault",
    [
        httpx.Response(500, text="Internal Server Error"),  # Ray Serve's, for a dead replica
        httpx.Response(502),
        problem(503, "unavailable", "still copying a table", **{"Retry-After": "0"}),
        httpx.Response(504),
        httpx.Response(429, headers={"Retry-After": "0"}),
        httpx.Response(408),
        httpx.ConnectError("refused"),
        httpx.ReadError("cut"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("peer closed connection"),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(kind, fault):
    service = FakeService(fault, fault)
    with opened(kind, transport=service.transport) as client:
        result = client.lookup("films", "item", IDS)
    assert result.values.tolist() == vectors_of(2)
    first, _, third = service.requests
    assert first.content == third.content


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", [httpx.ConnectError("refused"), httpx.Response(503)], ids=str)
def test_it_gives_up_after_retries(kind, fault):
    service = FakeService(*[fault] * 9)
    with (
        opened(kind, retries=3, transport=service.transport) as client,
        pytest.raises(ServiceError, match=r"http://service"),
    ):
        client.spaces()
    assert len(service.requests) == 4


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (httpx.Response(400, text="busy"), ServiceError, "answered 400: Bad Request 'busy'"),
        (httpx.Response(404, text="none"), ServiceError, "answered 404: Not Found 'none'"),
        (problem(404, "not-found", "no id 7"), NotFoundError, "^no id 7$"),
        (problem(404, "no-map", "no map"), MissingMapError, "^no map$"),
        (problem(500, "internal-error", "failed"), ServiceError, "answered 500: failed"),
        (
            problem(422, "invalid", "bad", **{wire.REQUEST_ID: "abc"}),
            ServiceError,
            "answered 422 to request abc: bad",
        ),
        (problem(401, "unauthorized", "no token."), ServiceError, "BACKSTAY_TOKEN"),
        (
            httpx.Response(301, headers={"Location": "https://other/"}),
            ServiceError,
            "redirects to https://other/",
        ),
        (httpx.UnsupportedProtocol("ftp"), ServiceError, "ftp"),
    ],
    ids=str,
)
def test_what_will_not_pass_is_not_tried_again(kind, fault, error, says):
    service = FakeService(fault)
    with opened(kind, transport=service.transport) as client, pytest.raises(error, match=says):
        client.spaces()
    assert len(service.requests) == 1


@pytest.mark.parametrize("refuses", [True, False])
@pytest.mark.parametrize("version", [None, 0, "latest"])
def test_a_source_change_in_the_middle_starts_all_pages_again(kind, refuses, version):
    service = FakeService(None, lambda: setattr(service, "source", 3), refuses=refuses)
    with opened(kind, transport=service.transport, batch=4, concurrency=2) as client:
        result = client.lookup("films", "item", IDS, version)
    assert result.values.tolist() == vectors_of(3)
    assert result.source_version == 3
    asked = [request.headers.get(wire.SOURCE_VERSION) for request in service.requests]
    assert asked.count(None) == 2  # two first pages
    assert asked[-4:] == ["3"] * 4


def test_a_source_that_changes_again_and_again_is_an_error(kind):
    def change():
        service.source += 1

    service = FakeService(*[change] * 100)
    with (
        opened(kind, transport=service.transport, batch=4, concurrency=1) as client,
        pytest.raises(ServiceError, match=r"from one table.*6 attempts.*Try again"),
    ):
        client.lookup("films", "item", IDS)
    assert len(service.requests) == 12


@pytest.mark.parametrize("fault", [problem(422, "invalid", "bad page"), ValueError("a bug")])
def test_one_failed_page_fails_the_look_up(kind, fault):
    service = FakeService(None, None, fault)
    with (
        opened(kind, transport=service.transport, batch=1, concurrency=3) as client,
        pytest.raises((ServiceError, ValueError), match=r"bad page|a bug"),
    ):
        client.lookup("films", "item", list(range(500)))
    assert len(service.requests) < 100


def test_an_answer_is_freed_once_its_vectors_are_taken(kind):
    """httpx's answers are cycles: the bytes of many pages waited for the garbage collector."""
    alive = []

    class Watched(FakeService):
        def __call__(self, request):
            answer = super().__call__(request)
            alive.append(weakref.ref(answer))
            return answer

    gc.collect()
    gc.disable()
    try:
        with opened(kind, transport=Watched().transport, batch=1) as client:
            client.lookup("films", "item", IDS)
        assert len(alive) == len(IDS)
        # The event loop may still hold the last ones.
        assert sum(ref() is not None for ref in alive) < len(IDS) / 2
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, headers={wire.SHAPE: "1,2", wire.MISSING: "0"}, content=b"12345678"),
        httpx.Response(200, headers={wire.SHAPE: "1,2", wire.MISSING: "0"}, content=b"123"),
        httpx.Response(
            200,
            headers={wire.SHAPE: "1,2", wire.MISSING: "0", "Content-Encoding": "zstd"},
            content=b"no zstd",
        ),
    ],
    ids=["another server", "no versions", "short", "no zstd"],
)
def test_an_answer_that_is_not_the_services_is_recognised(kind, answer):
    with (
        opened(kind, transport=FakeService(answer).transport) as client,
        pytest.raises(ServiceError, match=r"Check that the URL|without compression"),
    ):
        client.lookup("films", "item", [1])


@pytest.mark.parametrize("compression", ["gzip", "zstd", None])
def test_compressed_answers(kind, compression):
    compress = {
        "gzip": gzip.compress,
        "zstd": lambda body: pa.compress(body, "zstd", asbytes=True),
        "identity": bytes,
    }
    service = FakeService()

    def packed(request):
        answer = service(request)
        encoding = request.headers["accept-encoding"]
        headers = dict(answer.headers) | {"Content-Encoding": encoding}
        del headers["content-length"]
        return httpx.Response(
            answer.status_code, headers=headers, content=compress[encoding](answer.content)
        )

    transport = httpx.MockTransport(packed)
    with opened(kind, transport=transport, compression=compression, batch=3) as client:
        assert client.lookup("films", "item", IDS).values.tolist() == vectors_of(2)
        service.faults = [problem(404, "not-found", "no such space")]
        with pytest.raises(NotFoundError, match="no such space"):
            client.lookup("films", "item", IDS)


def test_float16_is_asked_for_and_taken(kind):
    service = FakeService()
    with opened(kind, transport=service.transport, batch=3) as client:
        result = client.lookup("films", "item", [*IDS, -1], dtype="float16", missing="skip")
        assert (result.values.dtype, result.values.tolist()) == (np.float16, vectors_of(2))
    service = FakeService()
    plain = httpx.MockTransport(lambda request: large(service(request)))
    with (
        opened(kind, transport=plain) as client,
        pytest.raises(ServiceError, match=r"float16.*Ask for float32"),
    ):
        client.lookup("films", "item", [1], dtype="float16")


def large(answer):
    headers = dict(answer.headers) | {"Content-Type": wire.BINARY}
    del headers["content-length"]
    return httpx.Response(200, headers=headers, content=np.full(2, 1e6, "<f4").tobytes())


def test_headers(kind, monkeypatch):
    monkeypatch.setenv("BACKSTAY_TOKEN", "from-environment\n")
    service = FakeService()
    with opened(
        kind, transport=service.transport, consumer="ranking", headers={"X-Team": "search"}
    ) as client:
        client.lookup("films", "item", [1], 1)
    with opened(kind, transport=service.transport, token="given") as client:
        client.lookup("films", "item", [1])
    monkeypatch.delenv("BACKSTAY_TOKEN")
    with opened(kind, transport=service.transport) as client:
        client.lookup("films", "item", [1], "prod")
    first, second, third = service.requests
    assert first.headers["authorization"] == "Bearer from-environment"
    assert (first.headers[wire.CONSUMER], first.headers["x-team"]) == ("ranking", "search")
    assert second.headers["authorization"] == "Bearer given"
    assert "authorization" not in third.headers
    assert [request.content for request in service.requests] == [
        b'{"ids":[1],"version":1}',
        b'{"ids":[1]}',
        b'{"ids":[1],"version":"prod"}',
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch": 0}, "at least 1"),
        ({"concurrency": 0}, "at least 1"),
        ({"retries": -1}, "retries must be at least 0; found -1"),
        ({"timeout": 0}, "timeout must be a positive"),
        ({"deadline": float("nan")}, "deadline must be a positive"),
        ({"connect_timeout": float("inf")}, "connect_timeout must be a positive"),
        ({"url": "127.0.0.1:8000"}, r"url must be like http.*found '127.0.0.1:8000'"),
        ({"url": "http://"}, "url must be"),
        ({"url": "http://host:port"}, "url must be"),
        ({"url": "http://host/?a=b"}, "url must be"),
        ({"url": "http://me:secret@host"}, "no user and no password"),
        ({"verify": "ca.pem"}, r"for https; found the URL http://service"),
        ({"cert": ("a.pem", "b.pem")}, r"for https; found the URL http://service"),
        ({"token": "two\nlines"}, "^token must be printable ASCII.$"),
        ({"consumer": "é"}, "consumer must be printable ASCII; found 'é'"),
        ({"url": "https://host", "verify": "/none.pem"}, r"/none\.pem can't be read"),
        ({"url": "https://host", "cert": ("/a.pem", "/b.pem")}, r"/b\.pem can't be loaded"),
    ],
    ids=str,
)
def test_invalid_options_are_refused(kind, options, says):
    with pytest.raises(UsageError, match=says), opened(kind, **options):
        pass


def test_a_refused_connection_is_one_clear_error(kind):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with (
        opened(kind, url, connect_timeout=0.5, deadline=3600, retries=1000) as client,
        pytest.raises(ServiceError, match=rf"no answer from {url} within .*serve` starts"),
    ):
        client.spaces()


def test_a_service_that_never_answers(kind):
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        opened(
            kind, f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1, deadline=0.5
        ) as client,
        pytest.raises(ServiceError, match="no answer"),
    ):
        client.spaces()


@contextmanager
def scripted_server(*answers, context=None):
    """Send these bytes, one after the other, each to a connection of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    if context:
                        try:
                            connection = context.wrap_socket(connection, server_side=True)
                        except ssl.SSLError:
                            continue
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]


def raw(body, *, length):
    return f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode() + body


WHOLE = b'{"spaces":["films"]}'


@pytest.mark.usefixtures("impatient")
def test_a_truncated_body_is_fetched_again(kind):
    cut = raw(WHOLE[:5], length=len(WHOLE))
    with (
        scripted_server(b"", cut, raw(WHOLE, length=len(WHOLE))) as port,
        opened(kind, f"http://127.0.0.1:{port}") as client,
    ):
        assert client.spaces() == ["films"]


def test_tls(kind, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    answer = raw(WHOLE, length=len(WHOLE))
    for options in ({"verify": certificate}, {"verify": False}):
        with (
            scripted_server(answer, context=context) as port,
            opened(kind, f"https://localhost:{port}", **options) as client,
        ):
            assert client.spaces() == ["films"]
    with (
        scripted_server(answer, context=context) as port,
        opened(kind, f"https://localhost:{port}") as client,
        pytest.raises(ServiceError, match=r"no secure connection.*verify="),
    ):
        client.spaces()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A PEM file with a key and a certificate for localhost that signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    path = folder / "localhost.pem"
    path.write_bytes(b"".join(file.read_bytes() for file in self_signed(folder)))
    return path
