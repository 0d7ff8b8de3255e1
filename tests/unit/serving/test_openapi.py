"""The OpenAPI document is valid, and every answer is one that it describes."""

from collections import defaultdict

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from backstay.registry import tokens
from backstay.serving import wire
from backstay.serving.app import build_app
from backstay.serving.lookup import Lookup
from tests.support import served
from tests.support.served import SPACE

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


@pytest.fixture(scope="session")
def document(http):
    return http.get("/openapi.json").json()


DOCUMENT = schemathesis.openapi.from_dict(build_app().openapi())
OPERATIONS = [operation.ok() for operation in DOCUMENT.get_all_operations()]


@DOCUMENT.hook
def map_path_parameters(_context, parameters):
    """Most requests name what is there: otherwise, each answer would be 404."""
    names = {"space": [SPACE], "entity": ["user", "item"], "id": ["5", "tt1", "41"]}
    for name, values in names.items():
        if parameters and name in parameters and len(str(parameters[name])) % 4:
            parameters[name] = values[len(str(parameters[name])) % len(values)]
    return parameters


@DOCUMENT.hook
def map_headers(_context, headers):
    """A valid request names the table in force: for others, 503 is the right answer at times."""
    if headers and str(headers.get(wire.SOURCE_VERSION, "")).isdigit():
        headers[wire.SOURCE_VERSION] = "2"
    return headers


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_every_answer_is_one_that_is_described(url, operation, mode):
    @settings(max_examples=50, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        case.call_and_validate(base_url=url, checks=CHECKS)

    try:
        check()
    except Unsatisfiable:  # any text is a valid part of a path
        assert {parameter.location.value for parameter in operation.iter_parameters()} <= {"path"}


@pytest.fixture(scope="session")
def bearers(tmp_path_factory):
    """The URL of a service that requires tokens, and headers of whoever may ask it."""
    registry = served.build(tmp_path_factory.mktemp("guarded"))

    def bearer(name, **scope):
        return f"Bearer {tokens.create(registry.files, name, **scope)[1]}"

    headers = {
        "all": bearer("all"),
        "another space": bearer("another", spaces=["books"]),
        "only metrics": bearer("metrics", verbs=["metrics"]),
        "only describe": bearer("describe", verbs=["describe"]),
        "consumer": bearer("consumer", consumer="ads"),
        "no token of ours": "Bearer backstay_0123456789ab_wrong",
        "another scheme": "Basic YTpi",
    }
    with (
        Lookup(registry, cache=tmp_path_factory.mktemp("cache")) as lookup,
        served.listening(build_app(lookup, max_ids=100, auth="required", replica="one")) as url,
    ):
        yield url, headers


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_every_answer_to_every_bearer_is_one_that_is_described(bearers, operation):
    url, headers = bearers
    statuses = defaultdict(set)

    @settings(max_examples=60, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(
        case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
        who=st.sampled_from(["nobody", *headers]),
    )
    def check(case, who):
        case.headers.pop("Authorization", None)
        if who in headers:
            case.headers["Authorization"] = headers[who]
        answer = case.call_and_validate(base_url=url, checks=CHECKS)
        statuses[who].add(answer.status_code)

    check()
    strangers = statuses["nobody"] | statuses["no token of ours"] | statuses["another scheme"]
    if operation.path in {"/healthz", "/readyz"}:
        assert set.union(*statuses.values()) == {200}
    else:
        assert strangers == {401}
        assert 403 in statuses["only describe"] | statuses["only metrics"]
        assert not statuses["all"] & {401}


def test_the_document_is_of_openapi_3_1_and_its_schemas_are_valid(document):
    assert document["openapi"].startswith("3.1.")
    for schema_ in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema_)


def test_every_answer_of_every_route_has_a_schema(document):
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                assert "Backstay-Request-Id" in answer["headers"], (path, status)
                for media_type, content in answer.get("content", {}).items():
                    binary = media_type.startswith("application/vnd") or "octet" in media_type
                    assert binary or content["schema"], (path, status, media_type)


def test_every_reference_leads_somewhere(document):
    def references(value):
        if isinstance(value, dict):
            yield from (each for key, each in value.items() if key == "$ref")
            for each in value.values():
                yield from references(each)
        if isinstance(value, list):
            for each in value:
                yield from references(each)

    for reference in references(document):
        assert reference.rpartition("/")[2] in document["components"]["schemas"]
