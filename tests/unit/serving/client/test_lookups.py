"""Look-ups of both clients from a real service."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backstay.engines.conversion.config import ConvertConfig
from backstay.engines.conversion.convert import convert
from backstay.errors import FingerprintError, NotFoundError, ServiceError, UsageError
from backstay.registry import aliases, contracts
from backstay.serving.app import build_app
from backstay.serving.lookup import Lookup
from tests.support import builders, served
from tests.support.clients import opened
from tests.support.processes import run_python
from tests.support.served import DIMS, ITEMS, SPACE, USERS, listening, slowly


@pytest.fixture
def client(kind, url):
    with opened(kind, url, retries=0) as client:
        yield client


def close_to(entity, ids, *, version):
    return pytest.approx(slowly(entity, ids, version=version, source=2), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("version", [0, 1, 2, "latest", None, np.int64(1)])
def test_ids_and_vectors_of_a_version(client, version):
    ids, values = client.lookup(SPACE, "user", USERS, version)
    assert (ids.dtype, values.dtype) == (np.int64, np.float32)
    assert np.array_equal(ids, USERS)
    number = 2 if version in {"latest", None} else version
    assert values == close_to("user", USERS.tolist(), version=number)


def test_without_a_version_the_contract_decides_then_prod_then_the_latest(kind, tmp_path):
    """It was version 0 for everybody."""
    registry = served.build(tmp_path / "registry")
    space = registry.space(SPACE)
    contracts.write(space, builders.contract("ranking", version=0), {})

    def versions(**options):
        with (
            Lookup(registry, cache=tmp_path / "cache") as lookup,
            listening(build_app(lookup)) as url,
            opened(kind, url, **options) as client,
        ):
            return [client.lookup(SPACE, "user", USERS, v).version for v in (None, "latest", 1)]

    assert versions() == [2, 2, 1]
    assert versions(consumer="ranking") == [0, 2, 1]
    assert versions(consumer="stranger") == [2, 2, 1]
    aliases.promote(space, 1)
    assert versions()[0] == 1
    assert versions(consumer="ranking")[0] == 0


def test_string_ids(client):
    ids, values = client.lookup(SPACE, "item", ITEMS, 1)
    assert ids.tolist() == ITEMS
    assert values == close_to("item", ITEMS, version=1)


@pytest.mark.parametrize(
    "of",
    [
        list,
        tuple,
        iter,
        np.array,
        lambda ids: pa.array(ids).to_pandas(),
        pa.array,
        lambda ids: pa.chunked_array([ids[:2], ids[2:]]),
    ],
)
def test_ids_come_in_any_container(client, of):
    assert np.array_equal(client.lookup(SPACE, "user", of(USERS.tolist())).ids, USERS)
    assert client.lookup(SPACE, "item", of(ITEMS)).ids.tolist() == ITEMS


def test_one_vector(client):
    expected = close_to("item", ["a/b"], version=0)
    assert client.vector(SPACE, "item", "a/b", 0)[None] == expected
    with pytest.raises(NotFoundError, match="41"):
        client.vector(SPACE, "user", 41)


def test_spaces(client):
    assert client.spaces() == [SPACE]
    assert client.space(SPACE)["latest"] == 2
    with pytest.raises(NotFoundError, match="no space 'books'"):
        client.space("books")


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_requests_of_any_size_give_one_answer(kind, url, batch, concurrency):
    asked = np.tile(np.concatenate([USERS, [41]]), 5)
    seen = []
    with opened(kind, url, batch=batch, concurrency=concurrency) as client:
        result = client.lookup(
            SPACE, "user", asked, 0, missing="skip", progress=lambda *done: seen.append(done)
        )
    assert np.array_equal(result.ids, np.tile(USERS, 5))
    assert result.missing.tolist() == [41] * 5
    assert result.values == close_to("user", result.ids.tolist(), version=0)
    assert seen[-1] == (len(asked), len(asked))
    assert seen == sorted(seen)


def test_missing_ids_are_named_or_left_out(client):
    with pytest.raises(NotFoundError, match=r"2 of 3 ids: 41, 42\..*missing=\"skip\""):
        client.lookup(SPACE, "user", [41, 5, 42])
    ids, values = client.lookup(SPACE, "user", [41, 5, 42], 0, missing="skip")
    assert ids.tolist() == [5]
    assert values.shape == (1, DIMS[0])


def test_no_ids_give_no_rows(client):
    result = client.lookup(SPACE, "user", [], 0)
    assert (len(result.ids), result.values.shape) == (0, (0, DIMS[0]))
    assert result.to_arrow().num_rows == 0


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ("tt1", "found the string 'tt1'"),
        (7, r"found 7\. Write \[7\]"),
        ([1, "tt1"], "found int, str"),
        ([1.5], "found float"),
        ([None], "found NoneType"),
        ([True], "found bool"),
        ([2**63], "within 64 bits"),
        (["\ud800"], "JSON"),
        (np.zeros((2, 2), int), "one-dimensional"),
    ],
)
def test_invalid_ids_are_refused(client, ids, says):
    with pytest.raises(UsageError, match=says):
        client.lookup(SPACE, "item", ids)


@pytest.mark.parametrize("version", [True, 1.0, [1]])
def test_an_invalid_version_is_refused(client, version):
    with pytest.raises(UsageError, match="a number, an alias or 'latest'"):
        client.lookup(SPACE, "user", [5], version)


def test_what_the_service_refuses_is_passed_on(kind, client, url):
    with pytest.raises(NotFoundError, match="versions 0 to 2; found 9"):
        client.lookup(SPACE, "user", [5], 9)
    with pytest.raises(ServiceError, match=r"422.*: ids of 'user'.*integers; found 'x'"):
        client.lookup(SPACE, "user", ["x"])
    with (
        opened(kind, url, batch=101) as large,
        pytest.raises(ServiceError, match=r"413.*: a request may ask for up to 100 ids.*batch="),
    ):
        large.lookup(SPACE, "user", [5] * 101)


def test_all_pages_come_from_one_table_when_another_is_taken_up_meanwhile(kind, tmp_path):
    registry = served.build(tmp_path / "registry", versions=1)
    with (
        Lookup(registry, cache=tmp_path / "cache") as lookup,
        listening(build_app(lookup)) as url,
        opened(kind, url, batch=2, concurrency=1) as client,
    ):

        def publish_after_the_first(done, _total):
            if done == 2 and lookup.describe(SPACE)["latest"] == 0:
                served.publish(registry, 1)
                lookup.refresh()

        result = client.lookup(SPACE, "user", USERS, 0, progress=publish_after_the_first)
    assert result.source_version in {0, 1}
    expected = slowly("user", USERS.tolist(), version=0, source=result.source_version)
    np.testing.assert_allclose(result.values, expected, rtol=1e-5, atol=1e-5)


def test_fingerprints_are_those_of_the_registry_and_can_be_expected(client, registry):
    of = registry.space(SPACE).manifest
    result = client.lookup(SPACE, "user", USERS, 0)
    assert result.fingerprint == of(0).fingerprint("user")
    assert result.source_fingerprint == of(2).fingerprint("user")
    by_entity = {"user": result.fingerprint, "item": "f" * 16}
    client.lookup(SPACE, "user", USERS, 0, expect=by_entity)
    with pytest.raises(
        FingerprintError, match=rf"{'f' * 16}.*{of(0).fingerprint('item')}.*None of"
    ):
        client.lookup(SPACE, "item", ITEMS, 0, expect=by_entity)
    expected = (
        rf"{result.fingerprint}; version 1 .*{of(1).fingerprint('user')}.* with version=0, or"
    )
    with pytest.raises(FingerprintError, match=expected):
        client.vector(SPACE, "user", 5, 1, expect=result.fingerprint)
    with pytest.raises(UsageError, match="fingerprint for 'user'; it has 'item'"):
        client.lookup(SPACE, "user", USERS, expect={"item": "f" * 16})


def test_float16_on_request(client):
    result = client.lookup(SPACE, "user", USERS, 0, dtype="float16")
    assert result.values.dtype == np.float16
    expected = slowly("user", USERS.tolist(), version=0, source=2)
    np.testing.assert_allclose(result.values, expected, rtol=2e-3, atol=2e-3)
    assert result.to_arrow().schema.field("embedding").type.value_type == pa.float16()
    with pytest.raises(UsageError, match="float64"):
        client.lookup(SPACE, "user", USERS, dtype="float64")


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compression_on_request(kind, url, compression):
    ids = np.tile(USERS, 16)
    with opened(kind, url, compression=compression) as client:
        values = client.lookup(SPACE, "user", ids, 0).values
    assert values == close_to("user", ids.tolist(), version=0)


def test_a_result_as_pandas(client):
    result = client.lookup(SPACE, "item", ITEMS)
    frame = result.to_pandas()
    assert frame.index.tolist() == ITEMS
    assert np.array_equal(frame.to_numpy(), result.values)


def test_a_result_as_arrow_is_a_table_that_convert_takes(client, registry, tmp_path):
    result = client.lookup(SPACE, "user", USERS, 2)
    path = tmp_path / "user.parquet"
    pq.write_table(result.to_arrow(), path)
    convert(
        ConvertConfig(
            registry=str(registry.uri), space=SPACE, source=2, targets=(0,), input=str(path),
            output=str(tmp_path / "old"),
        )
    )  # fmt: skip
    rows = pq.read_table(tmp_path / "old").to_pylist()
    by_id = {row["id"]: row["embedding"] for row in rows}
    assert np.array([by_id[id_] for id_ in USERS.tolist()]) == close_to(
        "user", USERS.tolist(), version=0
    )


def test_the_clients_load_neither_ray_nor_torch():
    code = "import sys, backstay; backstay.Client; print({'ray', 'torch'} & set(sys.modules))"
    done = run_python("-c", code, check=True)
    assert done.stdout == "set()\n"
