from itertools import chain, repeat

import httpx
import numpy as np
import pytest

from backstay.errors import NotFoundError, ServiceError, UsageError
from backstay.serving import wire
from backstay.serving.app import build_app
from backstay.serving.client import Client
from backstay.serving.lookup import Lookup
from tests.support import served
from tests.support.processes import run_python
from tests.support.served import DIMS, ITEMS, SPACE, USERS, listening, slowly


@pytest.fixture
def client(url):
    with Client(url, retries=0) as client:
        yield client


def test_a_look_up_is_of_version_0_unless_asked_otherwise(client):
    ids, values = client.lookup(SPACE, "user", USERS)
    assert ids.dtype == np.int64
    assert values.dtype == np.float32
    assert np.array_equal(ids, USERS)
    expected = slowly("user", USERS.tolist(), version=0, source=2)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", [1, 2, "latest"])
def test_string_ids_and_other_versions(client, version):
    ids, values = client.lookup(SPACE, "item", ITEMS, version)
    assert ids.tolist() == ITEMS
    expected = slowly("item", ITEMS, version=2 if version == "latest" else version, source=2)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_one_vector(client):
    expected = slowly("item", ["a/b"], version=0, source=2)[0]
    np.testing.assert_allclose(client.vector(SPACE, "item", "a/b"), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(NotFoundError, match="41"):
        client.vector(SPACE, "user", 41)


def test_spaces(client):
    assert client.spaces() == [SPACE]
    assert client.space(SPACE)["latest"] == 2
    with pytest.raises(NotFoundError, match="no space 'books'"):
        client.space("books")


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_requests_of_any_size_give_one_answer(url, batch, concurrency):
    asked = np.tile(np.concatenate([USERS, [41]]), 5)
    seen = []
    with Client(url, batch=batch, concurrency=concurrency) as client:
        ids, values = client.lookup(
            SPACE, "user", asked, missing="skip", progress=lambda *done: seen.append(done)
        )
    assert np.array_equal(ids, np.tile(USERS, 5))
    expected = slowly("user", ids.tolist(), version=0, source=2)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    assert seen[-1] == (len(asked), len(asked))
    assert seen == sorted(seen)


def test_missing_ids_are_named_or_left_out(client):
    with pytest.raises(NotFoundError, match=r"2 of 3 ids: 41, 42\..*missing=\"skip\""):
        client.lookup(SPACE, "user", [41, 5, 42])
    ids, values = client.lookup(SPACE, "user", [41, 5, 42], missing="skip")
    assert ids.tolist() == [5]
    assert values.shape == (1, DIMS[0])


def test_no_ids_give_no_rows(client):
    ids, values = client.lookup(SPACE, "user", [])
    assert (len(ids), values.shape) == (0, (0, DIMS[0]))


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ("tt1", "found the string 'tt1'"),
        ([1, "tt1"], "found int, str"),
        ([1.5], "found float"),
        ([2**63], "within 64 bits"),
        (["\ud800"], "JSON"),
    ],
)
def test_invalid_ids_are_refused(client, ids, says):
    with pytest.raises(UsageError, match=says):
        client.lookup(SPACE, "item", ids)


def test_what_the_service_refuses_is_passed_on(client, url):
    with pytest.raises(NotFoundError, match="versions 0 to 2; found 9"):
        client.lookup(SPACE, "user", [5], 9)
    with pytest.raises(ServiceError, match=r"422: ids of 'user'.*integers; found 'x'"):
        client.lookup(SPACE, "user", ["x"])
    with (
        Client(url, batch=101) as large,
        pytest.raises(ServiceError, match="413: a request may ask for up to 100 ids"),
    ):
        large.lookup(SPACE, "user", [5] * 101)


def test_latest_is_one_version_also_where_another_is_published_meanwhile(tmp_path):
    registry = served.build(tmp_path / "registry", versions=1)
    with (
        Lookup(registry, cache=tmp_path / "cache") as lookup,
        listening(build_app(lookup)) as url,
        Client(url, batch=2, concurrency=1) as client,
    ):

        def publish_after_the_first(done, _total):
            if done == 2:
                served.publish(registry, 1)
                lookup.refresh()

        _, values = client.lookup(SPACE, "user", USERS, "latest", progress=publish_after_the_first)
    assert values.shape == (len(USERS), DIMS[0])
    expected = np.concatenate(
        [
            slowly("user", USERS[:2].tolist(), version=0, source=0),
            slowly("user", USERS[2:].tolist(), version=0, source=1),
        ]
    )
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def scripted(*outcomes):
    """A transport that plays exceptions and status codes, the last for ever; and its requests."""
    script, sent = chain(outcomes, repeat(outcomes[-1])), []

    def play(request):
        sent.append(request)
        outcome = next(script)
        if isinstance(outcome, Exception):
            raise outcome
        values = np.ones((1, 2), np.float32)
        headers = {wire.SHAPE: "1,2", wire.MISSING: "0", wire.VERSION: "0"}
        content = values.tobytes() if outcome == 200 else b"busy"
        return httpx.Response(outcome, headers=headers, content=content)

    return httpx.MockTransport(play), sent


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _seconds: None)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "outcome", [503, 502, 504, 429, 408, httpx.ConnectError("no"), httpx.ReadError("cut")]
)
def test_what_may_pass_is_tried_again(outcome):
    transport, sent = scripted(outcome, outcome, 200)
    with Client("http://service", transport=transport) as client:
        assert client.vector("s", "e", 1).tolist() == [1, 1]
    assert len(sent) == 3
    assert sent[0].content == sent[2].content


@pytest.mark.usefixtures("impatient")
def test_it_gives_up_after_retries():
    transport, sent = scripted(httpx.ConnectError("refused"))
    with (
        Client("http://service", retries=3, transport=transport) as client,
        pytest.raises(
            ServiceError, match=r"no answer from http://service.*refused.*backstay serve"
        ),
    ):
        client.spaces()
    assert len(sent) == 4


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", [400, 404, 500])
def test_what_will_not_pass_is_not_tried_again(status):
    transport, sent = scripted(status)
    with (
        Client("http://service", transport=transport) as client,
        pytest.raises(ServiceError, match=rf"{status}.*busy"),
    ):
        client.spaces()
    assert len(sent) == 1


def test_another_server_is_recognised():
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, text="<html>"))
    with (
        Client("http://service", transport=transport) as client,
        pytest.raises(ServiceError, match="Backstay"),
    ):
        client.lookup("s", "e", [1])


@pytest.mark.parametrize("options", [{"batch": 0}, {"concurrency": 0}])
def test_invalid_options_are_refused(options):
    with pytest.raises(UsageError, match="at least 1"):
        Client("http://service", **options)


def test_the_client_loads_neither_ray_nor_torch():
    code = "import sys, backstay; backstay.Client; print({'ray', 'torch'} & set(sys.modules))"
    done = run_python("-c", code, check=True)
    assert done.stdout == "set()\n"
