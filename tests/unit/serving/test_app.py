import io
import re
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, unquote

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.errors import UsageError
from backstay.registry.tokens import TokenSet
from backstay.serving import wire
from backstay.serving.app import build_app
from backstay.serving.lookup import Lookup
from tests.support import served
from tests.support.served import DIMS, ITEMS, SPACE, USERS, listening, slowly

LOOKUP = f"/v1/spaces/{SPACE}/user/lookup"


def vectors_of(response):
    media_type = response.headers["content-type"]
    if media_type == wire.JSON:
        said = orjson.loads(response.content)
        return np.array(said["embeddings"] if "embeddings" in said else [said["embedding"]])
    if media_type == wire.ARROW:
        table = pa.ipc.open_stream(io.BytesIO(response.content)).read_all()
        return np.array(table["embedding"].to_pylist())
    shape = [int(size) for size in response.headers[wire.SHAPE].split(",")]
    return np.frombuffer(response.content, "<f4").reshape(-1, shape[-1])


def problem_of(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:backstay:problem:")
    assert unquote(problem["instance"]) == response.request.url.path
    assert problem["title"]
    return problem


@pytest.mark.parametrize("media_type", wire.MEDIA_TYPES)
@pytest.mark.parametrize("version", [0, 1, 2, "latest"])
@pytest.mark.parametrize("entity", ["user", "item"])
def test_many_vectors_in_every_form_are_what_the_slow_loop_gives(http, entity, version, media_type):
    ids = served.ENTITIES[entity].to_pylist()[::-1]
    response = http.post(
        f"/v1/spaces/{SPACE}/{entity}/lookup",
        json={"ids": ids, "version": version},
        headers={"Accept": media_type},
    )
    number = 2 if version == "latest" else version
    assert response.headers[wire.VERSION] == str(number)
    assert response.headers[wire.SOURCE_VERSION] == "2"
    assert response.headers["Vary"] == "Accept, Accept-Encoding, Backstay-Consumer"
    expected = slowly(entity, ids, version=number, source=2)
    np.testing.assert_allclose(vectors_of(response), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("media_type", wire.MEDIA_TYPES)
@pytest.mark.parametrize("query", ["", "?version=0", "?version=latest"])
@pytest.mark.parametrize("id_", [*(i for i in ITEMS if i), *USERS.tolist()])
def test_one_vector_in_every_form(http, id_, query, media_type):
    entity = "user" if isinstance(id_, int) else "item"
    path = f"/v1/spaces/{SPACE}/{entity}/{quote(str(id_), safe='')}{query}"
    response = http.get(path, headers={"Accept": media_type})
    version = 0 if query == "?version=0" else 2
    assert response.headers[wire.VERSION] == str(version)
    expected = slowly(entity, [id_], version=version, source=2)
    np.testing.assert_allclose(vectors_of(response), expected, rtol=1e-5, atol=1e-5)
    if media_type == wire.JSON:
        assert response.json()["id"] == id_
    if media_type == wire.BINARY:
        assert response.headers[wire.SHAPE] == str(DIMS[version])


def test_unknown_ids_are_listed_and_never_invented(http):
    said = http.post(LOOKUP, json={"ids": [41, 5, 42], "version": 0}).json()
    assert (said["ids"], said["missing"]) == ([5], [41, 42])
    assert len(said["embeddings"]) == 1


@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.integers(-(2**63), 2**63 - 1) | st.sampled_from(USERS.tolist())))
def test_every_integer_id_is_either_answered_or_missing(http, ids):
    said = http.post(LOOKUP, json={"ids": ids}).json()
    held = set(USERS.tolist())
    assert said["ids"] == [id_ for id_ in ids if id_ in held]
    assert said["missing"] == [id_ for id_ in ids if id_ not in held]


@settings(max_examples=40, deadline=None)
@given(id_=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text not in {".", "..", *ITEMS}))  # fmt: skip
def test_every_string_id_that_is_not_there_is_named_in_a_404(http, id_):
    response = http.get(f"/v1/spaces/{SPACE}/item/{quote(id_, safe='')}")
    problem = problem_of(response, 404)
    assert problem["id"] == id_
    assert repr(id_) in problem["detail"]


def test_spaces_and_what_they_hold(http):
    assert http.get("/v1/spaces").json() == {"spaces": [SPACE]}
    described = http.get(f"/v1/spaces/{SPACE}").json()
    assert [(v["version"], v["dim"]) for v in described["versions"]] == list(enumerate(DIMS))
    assert described["entities"]["user"]["versions"] == [0, 1, 2]


def test_health_and_openapi(http):
    assert http.get("/healthz").json() == {"status": "ok", "failures": {}}
    paths = http.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/v1/spaces",
        "/v1/spaces/{space}",
        "/v1/spaces/{space}/{entity}/lookup",
        "/v1/spaces/{space}/{entity}/{id}",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    operation = paths["/v1/spaces/{space}/{entity}/lookup"]["post"]
    assert set(operation["responses"]["200"]["content"]) == set(wire.MEDIA_TYPES)
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    assert set(schemas["LookupRequest"]["properties"]) == {"ids", "version"}


def test_the_documentation_loads_nothing_from_elsewhere(http):
    page = http.get("/docs")
    assert page.status_code == 200
    assert not re.search(r"(?:https?:)?//\w", page.text)
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) == 3
    for asset in [*assets, "/openapi.json"]:
        answer = http.get(asset)
        assert answer.status_code == 200
        assert answer.content
    assert "SwaggerUIBundle" in http.get(assets[-1]).text
    assert http.get("/openapi.json").json()["openapi"].startswith("3.1.")
    assert '"validatorUrl": null' in page.text  # else it asks swagger.io about the schema
    assert http.get("/redoc").status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/nowhere", 404, "/docs lists all paths"),
        ("/v1/spaces/books", 404, "no space 'books'"),
        (f"/v1/spaces/{SPACE}/actor/1", 404, "no entity 'actor'"),
        (f"/v1/spaces/{SPACE}/user/41", 404, "no id '41' in version 2"),
        (f"/v1/spaces/{SPACE}/user/41?version=0", 404, "no id '41' in version 2"),
        (f"/v1/spaces/{SPACE}/user/five", 422, "integers; found 'five'"),
        (f"/v1/spaces/{SPACE}/user/1_0", 422, "integers; found '1_0'"),
        (f"/v1/spaces/{SPACE}/user/9999999999999999999", 422, "within 64 bits"),
        (f"/v1/spaces/{SPACE}/user/5?version=3", 404, "versions 0 to 2; found 3"),
        (f"/v1/spaces/{SPACE}/user/5?version=-1", 422, "version"),
        (f"/v1/spaces/{SPACE}/user/5?version=new", 404, "no alias 'new'"),
    ],
)
def test_an_unknown_path_is_refused_with_the_reason(http, path, status, says):
    assert says in problem_of(http.get(path), status)["detail"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b"\xff", 400, "JSON"),
        (b'{"ids": [1], "version": NaN}', 400, "JSON in UTF-8"),
        (b"[]", 422, "found []"),
        (b"{}", 422, "ids must be given"),
        (b'{"ids": 1}', 422, "ids must be a list; found 1"),
        (b'{"ids": [1.5]}', 422, "ids.0"),
        (b'{"ids": [true]}', 422, "ids.0"),
        (b'{"ids": [null]}', 422, "found None"),
        (b'{"ids": ["5"]}', 422, "integers; found '5'"),
        (b'{"ids": [1, "5"]}', 422, "integers; found '5'"),
        (b'{"ids": [9223372036854775808]}', 422, "within 64 bits"),
        (b'{"ids": [1], "version": -1}', 422, "version"),
        (b'{"ids": [1], "version": "0"}', 422, "version"),
        (b'{"ids": [1], "version": true}', 422, "version"),
        (b'{"ids": [1], "version": 7}', 404, "versions 0 to 2; found 7"),
        (b'{"ids": [1], "verison": 0}', 422, "`ids` and `version`; found 'verison'"),
        (b'{"ids": [' + b"1," * 100 + b"1]}", 413, "up to 100 ids; found 101 ids"),
        (b'{"ids": [' + b" " * 100_000 + b"1]}", 413, "up to 100 ids; found a body of 1"),
        (b'{"ids": [' + b"null," * 50 + b"null]}", 422, "50 more ids are invalid"),
    ],
)
def test_an_invalid_body_is_refused_with_the_reason(http, body, status, says):
    response = http.post(LOOKUP, content=body, headers={"Content-Type": "application/json"})
    assert says in problem_of(response, status)["detail"]


def test_a_body_of_another_type_is_refused(http):
    response = http.post(LOOKUP, content=b"ids=1", headers={"Content-Type": "text/plain"})
    assert "found 'text/plain'" in problem_of(response, 415)["detail"]


def test_a_body_without_a_type_or_with_a_charset_is_json(http):
    assert http.post(LOOKUP, content=b'{"ids": [5]}').is_success
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert http.post(LOOKUP, content=b'{"ids": [5]}', headers=headers).is_success


@pytest.mark.parametrize(
    ("method", "path"), [("GET", f"/v1/spaces/{SPACE}/user/5"), ("POST", LOOKUP)]
)
def test_an_accept_that_can_not_be_met_names_what_there_is(http, method, path):
    response = http.request(method, path, json={"ids": [5]}, headers={"Accept": "text/csv"})
    problem = problem_of(response, 406)
    assert problem["available"] == [each.content_type for each in wire.FORMATS]
    assert "found 'text/csv'" in problem["detail"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PROPFIND"])
def test_a_method_that_is_not_there_names_the_one_that_is(http, method):
    response = http.request(method, "/v1/spaces")
    assert "takes GET" in problem_of(response, 405)["detail"]
    assert response.headers["Allow"] == "GET"


def test_an_id_that_is_not_there_still_says_which_versions_were_asked(http):
    response = http.get(f"/v1/spaces/{SPACE}/user/41?version=1")
    assert (response.headers[wire.VERSION], response.headers[wire.SOURCE_VERSION]) == ("1", "2")


class Failing:
    failures = {"movies": "the disk is full"}  # noqa: RUF012
    lost = {}  # noqa: RUF012
    tokens = TokenSet()

    def spaces(self):
        raise RuntimeError("secret")


def test_a_failure_of_the_service_is_a_problem_without_its_insides():
    with listening(build_app(Failing())) as url:
        response = httpx.get(f"{url}/v1/spaces")
        assert "secret" not in problem_of(response, 500)["detail"]
        assert httpx.get(f"{url}/healthz").json() == {
            "status": "degraded",
            "failures": {"movies": "the disk is full"},
        }


def test_without_a_registry_every_answer_is_503():
    with listening(build_app()) as url:
        assert "registry" in problem_of(httpx.get(f"{url}/v1/spaces"), 503)["detail"]
        problem_of(httpx.get(f"{url}/healthz"), 503)


@pytest.mark.parametrize("max_ids", [0, wire.MAX_IDS + 1])
def test_a_limit_that_headers_can_not_keep_up_with_is_refused(max_ids):
    with pytest.raises(UsageError, match="max_ids"):
        build_app(max_ids=max_ids)


def test_answers_to_many_at_once_do_not_mix(http):
    def ask(number):
        ids = [int(USERS[number % len(USERS)])] * (1 + number % 99)  # around the inline limit
        version = number % 3
        body = {"ids": ids, "version": version}
        response = http.post(LOOKUP, json=body, headers={"Accept": wire.BINARY})
        return response, slowly("user", ids, version=version, source=2)

    with ThreadPoolExecutor(16) as pool:
        for response, expected in pool.map(ask, range(200)):
            np.testing.assert_allclose(vectors_of(response), expected, rtol=1e-5, atol=1e-5)


def test_a_version_published_meanwhile_answers_from_then_on(tmp_path):
    registry = served.build(tmp_path / "registry", versions=1)
    with (
        Lookup(registry, cache=tmp_path / "cache") as lookup,
        listening(build_app(lookup)) as url,
    ):
        before = httpx.post(url + LOOKUP, json={"ids": [5], "version": 0})
        served.publish(registry, 1)
        lookup.refresh()
        after = httpx.post(url + LOOKUP, json={"ids": [5], "version": 0})
    assert before.headers[wire.SOURCE_VERSION] == "0"
    assert after.headers[wire.SOURCE_VERSION] == "1"
    expected = slowly("user", [5], version=0, source=1)
    np.testing.assert_allclose(vectors_of(after), expected, rtol=1e-5, atol=1e-5)
