"""Access tokens in a real server: who may ask for what, and whose version is answered."""

import json
import logging
from dataclasses import replace

import httpx
import pytest
from click.testing import CliRunner
from starlette.datastructures import State

from backstay.cli import main
from backstay.errors import UsageError
from backstay.registry import contracts, tokens
from backstay.registry.store import Registry
from backstay.registry.tokens import TokenSet
from backstay.serving import exposure, wire
from backstay.serving.access import Access
from backstay.serving.app import build_app
from backstay.serving.config import ServiceConfig
from backstay.serving.lookup import Lookup
from backstay.serving.problems import Problem
from backstay.serving.rollout import Rollout
from backstay.serving.watcher import Watcher
from tests.support import served
from tests.support.builders import contract
from tests.support.processes import start_python
from tests.support.running_service import eventually
from tests.support.served import SPACE, listening, publish

VECTOR = f"/v1/spaces/{SPACE}/user/5"
SECONDS = 0.1  # between two checks of the registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    registry = served.build(tmp_path_factory.mktemp("access") / "registry")
    publish(registry, 0, space="books")
    contracts.write(registry.space(SPACE), contract("ads", version=1), {})
    tokens.create(registry.files, "first")  # from now on, tokens are required
    return registry


@pytest.fixture(scope="module")
def url(registry, tmp_path_factory):
    """The URL of a server process."""
    process = start_python(
        *("-m", "tests.support.server", registry.uri, tmp_path_factory.mktemp("cache"), SECONDS),
        stdin=-1, stdout=-1, text=True,
    )  # fmt: skip
    with process:
        yield process.stdout.readline().strip()
        process.stdin.close()


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture
def asking(registry, url):
    """A function that makes a token, waits until the server has taken it up, and gives a client."""
    clients = []

    def ask(**scope):
        token, text = tokens.create(registry.files, "tester", **scope)
        client = httpx.Client(base_url=url, headers=bearer(text))
        clients.append(client)
        eventually(lambda: client.get("/nowhere").status_code != 401)
        return client, token, text

    yield ask
    for client in clients:
        client.close()


def problem(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    if status == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
    return response.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/", "/v1/spaces", f"/v1/spaces/{SPACE}", VECTOR, "/metrics", "/no"]
)
def test_without_a_token_nothing_is_answered(url, path):
    assert "none" in problem(httpx.get(f"{url}{path}"), 401)


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/docs", "/docs/assets/swagger-ui.css", "/openapi.json"]
)
def test_state_and_documentation_are_open_to_all(url, path):
    assert httpx.get(f"{url}{path}").status_code == 200


def test_the_openapi_document_tells_which_routes_need_a_token(url):
    document = httpx.get(f"{url}/openapi.json").json()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert {"token": []} in document["security"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            is_open = operation.get("security") == []
            answer = httpx.request(method, f"{url}{path}".replace("{", "").replace("}", ""))
            assert (answer.status_code == 401) != is_open
            assert ({"401", "403"} <= operation["responses"].keys()) != is_open


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer bst_",
        "Bearer " + "x" * 3000,
        f"Bearer bst_{'0' * 12}_{'A' * 43}",
        "Basic dXNlcjpwYXNzd29yZA==",
        "Bearer \xe9\xff",
        "bst_0123456789ab_" + "A" * 43,
    ],
)
@pytest.mark.parametrize("path", [VECTOR, f"/v1/spaces/{SPACE}", "/metrics"])
def test_what_is_no_token_of_this_registry_is_refused(url, path, header):
    response = httpx.get(f"{url}{path}", headers={"Authorization": header.encode("latin-1")})
    detail = problem(response, 401)
    assert not header or header.split()[-1] not in detail.split()


def test_a_wrong_secret_under_a_known_id_is_refused(url, asking):
    _, token, text = asking()
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    response = httpx.get(f"{url}{VECTOR}", headers=bearer(wrong))
    problem(response, 401)
    assert token.id not in response.text


def test_two_tokens_in_one_request_are_refused(url, asking):
    _, _, text = asking()
    twice = [("Authorization", f"Bearer {text}"), ("Authorization", f"Bearer {text}")]
    problem(httpx.get(f"{url}{VECTOR}", headers=twice), 400)


def test_a_token_is_taken_up_and_refused_again_without_a_restart(registry, asking):
    client, token, _ = asking()
    assert client.get(VECTOR).status_code == 200
    tokens.revoke(registry.files, token.id)
    eventually(lambda: client.get(VECTOR).status_code == 401)
    assert "was revoked" in problem(client.get(VECTOR), 401)


def test_an_expired_token_is_refused(registry, url):
    _, text = tokens.create(registry.files, "tester", days=1 / 86400)  # for at most a second
    eventually(lambda: "has expired" in httpx.get(f"{url}{VECTOR}", headers=bearer(text)).text)
    problem(httpx.get(f"{url}{VECTOR}", headers=bearer(text)), 401)


def test_a_token_opens_its_spaces_only(asking):
    client, _, _ = asking(spaces=[SPACE, "later"])
    assert client.get("/v1/spaces").json() == {"spaces": [SPACE]}
    assert client.get(f"/v1/spaces/{SPACE}").status_code == 200
    assert SPACE in client.get("/").text
    assert "books" not in client.get("/").text
    assert client.get(VECTOR).status_code == 200
    for path in ("/v1/spaces/books", "/v1/spaces/books/user/5"):
        detail = problem(client.get(path), 403)
        assert "on the spaces 'later', 'movies'" in detail
        assert "'books'" in detail
    problem(client.post("/v1/spaces/books/user/lookup", json={"ids": [5]}), 403)
    # A space that does not exist yet: the answer lists no other ones.
    assert "books" not in problem(client.get("/v1/spaces/later/user/5"), 404)


@pytest.mark.parametrize(
    ("verb", "allowed"),
    [
        ("lookup", {VECTOR}),
        ("describe", {"/v1/spaces", f"/v1/spaces/{SPACE}"}),
        ("metrics", {"/metrics"}),
    ],
)
def test_a_token_allows_its_verbs_only(asking, verb, allowed):
    client, _, _ = asking(verbs=[verb])
    for path in (VECTOR, "/v1/spaces", f"/v1/spaces/{SPACE}", "/metrics"):
        if path in allowed:
            assert client.get(path).status_code == 200
        else:
            assert f"the token allows {verb} on all spaces" in problem(client.get(path), 403)


def test_the_token_decides_the_version(asking):
    client, _, _ = asking(consumer="ads")
    lookup = f"/v1/spaces/{SPACE}/user/lookup"
    assert client.get(VECTOR).headers[wire.VERSION] == "1"
    assert client.post(lookup, json={"ids": [5]}).headers[wire.VERSION] == "1"
    assert client.get(VECTOR, params={"version": 0}).headers[wire.VERSION] == "0"
    asked = {"ids": [5], "version": "latest"}
    assert client.post(lookup, json=asked).headers[wire.VERSION] == "2"


def test_a_header_can_not_make_another_consumer_of_a_token(asking):
    of_ads, _, _ = asking(consumer="ads")
    of_nobody, _, _ = asking()
    assert of_ads.get(VECTOR, headers={wire.CONSUMER: "ads"}).headers[wire.VERSION] == "1"
    assert "which is ads" in problem(of_ads.get(VECTOR, headers={wire.CONSUMER: "other"}), 403)
    assert "which is none" in problem(of_nobody.get(VECTOR, headers={wire.CONSUMER: "ads"}), 403)
    assert of_nobody.get(VECTOR).headers[wire.VERSION] == "2"


def test_a_path_prefix_opens_nothing(registry, tmp_path):
    _, text = tokens.create(registry.files, "describer", verbs=["describe"])
    with Lookup(registry, cache=tmp_path) as lookup:
        app = build_app(lookup)

        async def mounted(scope, receive, send):
            await app({**scope, "root_path": "/v1"}, receive, send)

        with listening(mounted) as url:
            assert httpx.get(f"{url}/v1/healthz").status_code == 200
            problem(httpx.get(f"{url}{VECTOR}", headers=bearer(text)), 403)
            problem(httpx.get(f"{url}/v1{VECTOR}", headers=bearer(text)), 403)


# --- without sockets


def damage(registry, token):
    path = f".tokens/{token.id}/0.json"
    record = json.loads(registry.files.read(path))
    registry.files.write(path, json.dumps({**record, "spaces": None}).encode())


def test_a_damaged_record_disables_its_token_alone(tmp_path, caplog):
    registry = Registry(tmp_path)
    good, _ = tokens.create(registry.files, "good")
    bad, text = tokens.create(registry.files, "bad", spaces=[SPACE])
    damage(registry, bad)
    watcher = Watcher(registry)
    with caplog.at_level(logging.ERROR, "backstay.serving"):
        watcher.poll(full=True)
        watcher.poll(full=True)
    assert watcher.tokens.valid() == [good]
    assert watcher.tokens.damaged.keys() == {bad.id}
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert f"token {bad.id} is refused" in caplog.text
    assert text not in caplog.text


def test_one_request_finds_that_no_token_was_made(s3):
    registry = Registry(f"{s3.bucket()}/registry", storage_options=s3.storage_options)
    publish(registry, 0)
    tokens.create(registry.files, "one")
    watcher = Watcher(registry)
    watcher.poll()
    publish(registry, 1)
    with s3.record() as requests:
        watcher.poll()
    assert [each.split()[0] for each in requests if ".tokens" in each] == ["HEAD"]
    made, _ = tokens.create(registry.files, "two")
    watcher.poll()
    assert made in watcher.tokens.tokens


def broken(*_):
    raise OSError("the disk is gone")


def test_tokens_that_can_not_be_read_stay_as_they_were(tmp_path, monkeypatch):
    registry = Registry(tmp_path)
    token, _ = tokens.create(registry.files, "one")
    watcher = Watcher(registry)
    watcher.poll()
    with monkeypatch.context() as patch:
        patch.setattr("backstay.serving.watcher.read_tokens", broken)
        second, _ = tokens.create(registry.files, "two")
        watcher.poll()
        assert watcher.tokens.tokens == (token,)
    watcher.poll()  # though nothing was written since
    assert set(watcher.tokens.tokens) == {token, second}


def test_a_lost_disk_is_not_a_registry_without_tokens(tmp_path):
    registry = Registry(tmp_path / "registry")
    token, _ = tokens.create(registry.files, "one")
    watcher = Watcher(registry)
    watcher.poll()
    (tmp_path / "registry").rename(tmp_path / "elsewhere")
    watcher.poll(full=True)
    assert watcher.tokens.tokens == (token,)


@pytest.mark.parametrize("auth", ["required", "auto"])
def test_nobody_is_let_in_before_the_tokens_were_read(registry, tmp_path, monkeypatch, auth):
    monkeypatch.setattr("backstay.serving.watcher.read_tokens", broken)
    with (
        Lookup(registry, cache=tmp_path) as lookup,
        listening(build_app(lookup, auth=auth)) as url,
    ):
        response = httpx.get(f"{url}{VECTOR}")
        assert "could not be read" in problem(response, 503)
        assert response.headers["Retry-After"]
        ready = httpx.get(f"{url}/readyz")
        assert "could not be read" in ready.json()["reasons"]["tokens"]
        assert ready.status_code == 503
        monkeypatch.undo()
        lookup.refresh()
        problem(httpx.get(f"{url}{VECTOR}"), 401)
        assert httpx.get(f"{url}/readyz").status_code == 200


def test_a_new_watcher_that_can_not_read_tokens_changes_none(registry, tmp_path):
    with Lookup(registry, cache=tmp_path) as lookup:
        known = lookup.tokens
        successor = Rollout(registry.uri)
        successor.read({}, {})
        lookup.shelf.follow(successor.orders)
        assert lookup.tokens == known


def test_why_a_space_fails_is_for_those_who_may_know_of_it(registry, tmp_path):
    _, text = tokens.create(registry.files, "reader")
    with Lookup(registry, cache=tmp_path) as lookup:
        rollout = Rollout(registry.uri)
        rollout.read({}, {"secret": "a path"}, lookup.tokens)
        lookup.shelf.follow(rollout.orders)
        with listening(build_app(lookup)) as url:
            for path in ("healthz", "readyz"):
                assert "secret" not in httpx.get(f"{url}/{path}").text
                assert "a path" in httpx.get(f"{url}/{path}", headers=bearer(text)).text
            assert httpx.get(f"{url}/healthz").json() == {"status": "degraded", "failures": {}}


@pytest.mark.parametrize(("auth", "status"), [("required", 401), ("auto", 200), ("off", 200)])
def test_a_registry_without_tokens(tmp_path, auth, status):
    registry = served.build(tmp_path / "registry", versions=1)
    with (
        Lookup(registry, cache=tmp_path / "cache") as lookup,
        listening(build_app(lookup, auth=auth)) as url,
    ):
        assert lookup.tokens == TokenSet()
        assert httpx.get(f"{url}{VECTOR}").status_code == status


def test_revoking_the_last_token_opens_nothing(tmp_path):
    registry = served.build(tmp_path / "registry", versions=1)
    token, _ = tokens.create(registry.files, "one")
    tokens.revoke(registry.files, token.id)
    with (
        Lookup(registry, cache=tmp_path / "cache") as lookup,
        listening(build_app(lookup)) as url,
    ):
        problem(httpx.get(f"{url}{VECTOR}"), 401)


def test_with_tokens_off_the_header_names_the_consumer(registry, tmp_path):
    with (
        Lookup(registry, cache=tmp_path) as lookup,
        listening(build_app(lookup, auth="off")) as url,
    ):
        response = httpx.get(f"{url}{VECTOR}", headers={wire.CONSUMER: "ads"})
        assert response.headers[wire.VERSION] == "1"


# --- where tokens are required


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("", False),
        ("localhost.example.org", False),
    ],
)
def test_beyond_the_loopback_tokens_are_required(tmp_path, host, local, caplog):
    registry = Registry(tmp_path)
    assert exposure.is_loopback(host) == local
    if local:
        assert exposure.auth_for(registry, host=host) == "auto"
    else:
        with pytest.raises(UsageError, match=r"backstay tokens add NAME .* or choose --no-auth"):
            exposure.auth_for(registry, host=host)
    with pytest.raises(UsageError, match="with --auth; found none"):
        exposure.auth_for(registry, host=host, auth=True)
    with caplog.at_level(logging.WARNING, "backstay.serving"):
        assert exposure.auth_for(registry, host=host, auth=False) == "off"
    assert "requests need no token (--no-auth)" in caplog.text


def test_a_revoked_token_lets_no_service_listen(tmp_path):
    registry = Registry(tmp_path)
    token, _ = tokens.create(registry.files, "one")
    assert exposure.auth_for(registry, host="0.0.0.0") == "required"
    tokens.revoke(registry.files, token.id)
    with pytest.raises(UsageError, match="expected a valid token"):
        exposure.auth_for(registry, host="0.0.0.0")


@pytest.mark.parametrize(
    ("given", "auth"),
    [(None, "required"), (True, "required"), (False, "off"), ("off", "off"), ("auto", "auto")],
)
def test_the_setting_in_yaml(given, auth):
    config = {} if given is None else {"auth": given}  # YAML reads `off` as False
    assert ServiceConfig.parse({"registry": "r", **config}).auth == auth


def test_a_wrong_setting_is_refused():
    with pytest.raises(UsageError, match="auth must be 'required', 'auto' or 'off'; found 'no'"):
        ServiceConfig.parse({"registry": "r", "auth": "no"})


def test_beyond_the_loopback_it_does_not_start_without_a_token(tmp_path):
    words = ["serve", "--registry", str(tmp_path / "registry"), "--host", "0.0.0.0", "--port", "0"]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2
    assert "backstay tokens add" in refused.stderr
    assert "--no-auth" in refused.stderr


# --- the decision itself


def access_to(known):
    class Known:
        tokens = known

        def spaces(self):
            return [SPACE]

    return Access(State({"auth": "required", "lookup": Known()}))


def scope_of(text):
    return {"headers": [(b"authorization", f"Bearer {text}".encode())], "path": VECTOR}


def test_each_token_is_found_among_many(tmp_path):
    files = Registry(tmp_path).files
    made, text = tokens.create(files, "one", spaces=[SPACE])
    others = [replace(made, id=f"{n:012x}", sha256=f"{n:064x}") for n in range(1000)]
    access = access_to(TokenSet(tokens=(*others, made)))
    access.check(scope_of(text), "lookup", SPACE)
    with pytest.raises(Problem) as refused:
        access.check(scope_of(text), "lookup", "books")
    assert refused.value.status == 403
