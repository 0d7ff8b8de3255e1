"""Which shard holds an id, and answers put together from shards, without Ray."""

import asyncio
import contextlib
import gc
import json

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.errors import NotFoundError, NotReadyError, ServiceError
from backstay.registry.aliases import promote
from backstay.serving import wire
from backstay.serving.app import build_app
from backstay.serving.client import AsyncClient, Client
from backstay.serving.lookup import Lookup
from backstay.serving.router import Router
from backstay.serving.shard_tables import ShardTables
from backstay.serving.sharding import Rows, Shard, merge, shard_of, split, take
from tests.support import served
from tests.support.processes import run_python
from tests.support.served import ITEMS, SPACE, USERS

SHARDS = (1, 2, 4)
INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50)
STRINGS = st.lists(st.text(max_size=20), max_size=50)


class Local:
    """Calls of a shard in this process. `alive` can be set to False."""

    def __init__(self, lookup):
        self.lookup = lookup
        self.tables = ShardTables(lookup)
        self.alive = True
        self.asked = []

    def opened(self, key):
        self._check()
        return self.tables.opened(key)

    async def rows(self, key, ids):
        self._check()
        self.asked.append(len(ids))
        return self.tables.rows(key, ids)

    def _check(self):
        if not self.alive:
            raise ConnectionError("the process has died")


@contextlib.contextmanager
def sharded(registry, cache, shards, **options):
    """A router and the calls of its shards."""
    with contextlib.ExitStack() as stack:
        calls = [
            Local(stack.enter_context(Lookup(registry, cache=cache, shard=Shard(n, shards))))
            for n in range(shards)
        ]
        yield stack.enter_context(Router(registry, cache=cache, shards=calls, **options)), calls


@pytest.fixture(scope="module", params=SHARDS)
def services(request, registry, tmp_path_factory):
    with sharded(registry, tmp_path_factory.mktemp("cache"), request.param) as service:
        yield service


@pytest.fixture(scope="module")
def whole(registry, tmp_path_factory):
    """A look-up of whole tables, which computes each product as routers do."""
    cache = tmp_path_factory.mktemp("cache")
    with Lookup(registry, cache=cache, views_max_bytes=0) as opened:
        yield opened


def gather(router, *arguments, **options):
    return asyncio.run(router.gather(*arguments, **options))


def array(ids):
    integers = all(isinstance(id_, int) for id_ in ids)
    return np.array(ids, np.int64) if integers else pa.array(ids, pa.large_string())


def hashed_slowly(id_):
    """The hash in Python's own integers."""
    most = 2**64
    if isinstance(id_, str):
        base = 0x9E3779B97F4A7C15
        value = sum((b + 1) * pow(base, n + 1, most) for n, b in enumerate(id_.encode())) % most
    else:
        value = id_ % most
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % most
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % most
    return value ^ (value >> 31)


@given(ids=INTEGERS | STRINGS, shards=st.integers(1, 64))
def test_the_shard_of_an_id_is_what_the_slow_hash_gives(ids, shards):
    expected = [hashed_slowly(id_) % shards for id_ in ids]
    assert shard_of(array(ids), shards).tolist() == expected


def test_the_shard_of_an_id_stays_the_same():
    # Copies on disk depend on it: another hash needs another cache.FORMAT.
    assert shard_of(np.array([0, 1, -1, 2**62]), 16).tolist() == [0, 5, 11, 5]
    assert shard_of(pa.array(["", "a", "日本"], pa.large_string()), 16).tolist() == [0, 3, 14]


def test_a_slice_of_strings_has_the_shards_of_its_strings():
    ids = pa.array(ITEMS * 3, pa.large_string())
    assert shard_of(ids[5:17], 8).tolist() == shard_of(ids, 8)[5:17].tolist()


@pytest.mark.parametrize("kind", [int, str])
def test_shards_have_about_as_many_ids(kind):
    ids = array([kind(n) for n in range(40_000)])
    counts = np.bincount(shard_of(ids, 4))
    assert abs(counts - 10_000).max() < 500


@given(
    ids=INTEGERS | STRINGS, shards=st.sampled_from([1, 2, 4, 7]), known=st.sets(st.integers(0, 49))
)
def test_what_was_split_is_merged_in_the_order_asked(ids, shards, known):
    asked = array(ids)
    rows = np.arange(len(ids))
    held = np.isin(rows, list(known))
    places = split(asked, shards)
    assert sum(len(take(asked, at)) for at in places.values()) == len(ids)
    parts = {
        n: Rows(held[at], rows[at][held[at]][:, None].astype(np.float32))
        for n, at in places.items()
    }
    found, values = merge(parts, places, count=len(ids), dim=1)
    assert found.tolist() == held.tolist()
    assert values[:, 0].tolist() == rows[held].tolist()


@given(
    asked=st.lists(st.sampled_from([*USERS.tolist(), 1, 2, 3]), max_size=20)
    | st.lists(st.sampled_from([*ITEMS, "unknown"]), max_size=20),
    version=st.sampled_from([0, 1, 2, "latest", None]),
    format_=st.sampled_from(wire.FORMATS),
)
def test_answers_are_those_of_whole_tables_bit_for_bit(services, whole, asked, version, format_):
    router, _ = services
    entity = "item" if asked and isinstance(asked[0], str) else "user"
    expected = wire.encode(whole.vectors(SPACE, entity, asked, version=version), format_)
    found = gather(router, SPACE, entity, asked, version=version)
    assert wire.encode(found, format_) == expected


def test_a_shard_is_asked_once_and_only_for_its_own_ids(services):
    router, calls = services
    for shard in calls:
        shard.asked.clear()
    gather(router, SPACE, "user", USERS.tolist())
    counts = np.bincount(shard_of(USERS, len(calls)), minlength=len(calls))
    assert [shard.asked for shard in calls] == [[n] if n else [] for n in counts.tolist()]


def test_the_copy_of_a_shard_holds_its_rows_only(services):
    _, calls = services
    for entity, ids in served.ENTITIES.items():
        ids = ids.cast(pa.large_string()) if entity == "item" else ids.to_numpy()  # noqa: PLW2901
        of = shard_of(ids, len(calls))
        for n, shard in enumerate(calls):
            (file,) = (shard.lookup.shelf.cache / SPACE / entity).glob("2-*/vectors.npy")
            assert len(np.load(file)) == np.count_nonzero(of == n)


def test_errors_are_those_of_whole_tables(services):
    router, _ = services
    with pytest.raises(NotFoundError, match="versions 0 to 2; found 3"):
        gather(router, SPACE, "user", [5], version=3)
    with pytest.raises(NotFoundError, match="no space 'books'"):
        gather(router, "books", "user", [5])


@pytest.fixture
def two(tmp_path):
    """A router of two shards, on a registry of its own with version 0 in force."""
    registry = served.build(tmp_path / "registry", versions=2)
    promote(registry.space(SPACE), 0)
    with sharded(registry, tmp_path / "cache", 2) as service:
        yield registry, *service


def test_ids_of_a_lost_shard_are_refused_until_it_answers_again(two):
    _, router, calls = two
    users = USERS.tolist()
    lost = (shard_of(USERS, 2) == 1).tolist()

    async def ask():
        calls[1].alive = False
        with pytest.raises(
            NotReadyError, match=f"for {sum(lost)} of 6 ids.*shard 1.*has died"
        ) as error:
            await router.gather(SPACE, "user", users)
        assert error.value.retry_after == 1
        assert list(router.lost) == [1]
        others = [id_ for id_, is_lost in zip(users, lost, strict=True) if not is_lost]
        assert (await router.gather(SPACE, "user", others)).found.all()
        calls[1].alive = True
        while router.lost:  # noqa: ASYNC110 - set by the probe
            await asyncio.sleep(0.01)
        assert (await router.gather(SPACE, "user", users)).found.all()

    asyncio.run(ask())


def test_a_partial_answer_says_which_ids_were_not_answered(two):
    _, router, calls = two
    asked = [*USERS.tolist(), 41, 42, 43, 44]
    lost = shard_of(np.array(asked), 2) == 0

    async def ask():
        calls[0].alive = False
        return await router.gather(SPACE, "user", asked, version=0, partial=True)

    found = asyncio.run(ask())
    known = np.isin(asked, USERS)
    assert found.unanswered_ids.to_pylist() == np.array(asked)[lost].tolist()
    assert found.missing.to_pylist() == np.array(asked)[~known & ~lost].tolist()
    assert found.found_ids.to_pylist() == np.array(asked)[known & ~lost].tolist()
    expected = served.slowly("user", found.found_ids.to_pylist(), version=0, source=0)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)


def test_a_whole_answer_lists_no_id_as_unanswered(two):
    _, router, _ = two
    assert len(gather(router, SPACE, "user", [5, 41], partial=True).unanswered_ids) == 0


def test_a_request_that_no_replica_of_a_shard_takes_is_made_once_more(two):
    _, router, calls = two
    rows = calls[0].rows
    failures = [ConnectionError("died while it answered")]

    async def failing(key, ids):
        if failures:
            raise failures.pop()
        return await rows(key, ids)

    calls[0].rows = failing
    assert gather(router, SPACE, "user", USERS.tolist()).found.all()
    assert not router.lost


def test_a_shard_that_hangs_is_lost_after_a_while(tmp_path):
    registry = served.build(tmp_path / "registry", versions=1)

    async def hanging(_key, _ids):
        await asyncio.sleep(60)

    with sharded(registry, tmp_path / "cache", 2, answer_seconds=0.05) as (router, calls):
        calls[1].rows = hanging
        found = gather(router, SPACE, "user", USERS.tolist(), partial=True)
        assert found.unanswered.tolist() == (shard_of(USERS, 2) == 1).tolist()


def test_a_version_is_in_force_once_the_shards_have_opened_it(two):
    registry, router, calls = two
    users = USERS.tolist()
    assert gather(router, SPACE, "user", users).source_version == 0
    promote(registry.space(SPACE), 1)
    for shard in calls:  # before the router: they answer for both
        shard.lookup.refresh()
    found = gather(router, SPACE, "user", users)
    assert found.source_version == 0
    np.testing.assert_array_equal(found.values, served.tables_of(0)["user"])
    router.refresh()
    found = gather(router, SPACE, "user", users)
    assert found.source_version == 1
    np.testing.assert_array_equal(found.values, served.tables_of(1)["user"])


def test_the_router_may_have_its_orders_first(two):
    registry, router, _ = two
    promote(registry.space(SPACE), 1)
    router.refresh()  # waits for the shards, which open the table that it asks for
    found = gather(router, SPACE, "user", USERS.tolist())
    assert found.source_version == 1
    np.testing.assert_array_equal(found.values, served.tables_of(1)["user"])


def test_a_router_starts_without_a_lost_shard(tmp_path):
    registry = served.build(tmp_path / "registry", versions=1)
    with sharded(registry, tmp_path / "cache", 2) as (_, calls):
        calls[0].alive = False
        with Router(registry, cache=tmp_path / "cache", shards=calls, missed_seconds=0) as router:
            found = gather(router, SPACE, "user", USERS.tolist(), partial=True)
    assert found.unanswered.tolist() == (shard_of(USERS, 2) == 0).tolist()


def test_a_table_that_a_shard_can_not_load_is_not_used(tmp_path):
    registry = served.build(tmp_path / "registry", versions=2)
    (part,) = (tmp_path / "registry" / SPACE / "versions/1/tables/user").glob("*.parquet")
    part.write_bytes(b"damaged")
    with sharded(registry, tmp_path / "cache", 2) as (router, _):
        with pytest.raises(NotReadyError, match="is being copied"):
            gather(router, SPACE, "user", USERS.tolist(), version=0)
        router.wait()
        found = gather(router, SPACE, "user", USERS.tolist(), version=0)
    assert found.source_version == 0  # as without shards: an older table answers


def test_copies_of_another_number_of_shards_are_removed(tmp_path):
    registry = served.build(tmp_path / "registry", versions=2)

    def folders():
        return {each.name.partition(".")[2] for each in (tmp_path / "cache").iterdir()}

    with Lookup(registry, cache=tmp_path / "cache", grace=0) as whole:
        with sharded(registry, tmp_path / "cache", 2):
            pass
        assert folders() == {"", "of2.0", "of2.1", "of2.router"}
        gc.collect()
        whole.shelf.tick()
        assert folders() == {""}


@contextlib.contextmanager
def answering(router, **options):
    """Serve a router over HTTP, and give its URL."""
    with served.listening(build_app(router, replica="one", **options)) as url:
        yield url


def kill(shard, url):
    """Let a shard die, and wait until the router has noticed."""
    shard.alive = False
    for id_ in USERS:
        httpx.get(f"{url}/v1/spaces/{SPACE}/user/{id_}")


def test_a_lost_shard_is_503_for_its_ids_and_left_out_where_the_client_allows(two):
    _, router, calls = two
    lost = [id_ for id_ in USERS.tolist() if shard_of(np.array([id_]), 2)[0] == 1]
    path = f"/v1/spaces/{SPACE}/user"
    with answering(router) as url, httpx.Client(base_url=url) as http:
        kill(calls[1], url)
        for id_ in USERS.tolist():
            answer = http.get(f"{path}/{id_}")
            assert answer.status_code == (503 if id_ in lost else 200)
            assert answer.headers.get("Retry-After") == ("1" if id_ in lost else None)
        body = {"ids": [*USERS.tolist(), 41], "version": 0}
        refused = http.post(f"{path}/lookup", json=body)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert "allow a partial answer" in refused.json()["detail"]
        allowed = http.post(f"{path}/lookup", json=body, headers={"Backstay-Partial": "true"})
        assert allowed.status_code == 200
        left_out = [id_ for id_ in body["ids"] if shard_of(np.array([id_]), 2)[0] == 1]
        assert allowed.headers["Backstay-Unanswered"] == str(len(left_out))
        assert allowed.json()["unanswered"] == left_out
        arrow = http.post(
            f"{path}/lookup", json=body, headers={"Backstay-Partial": "true", "Accept": wire.ARROW}
        )
        metadata = pa.ipc.open_stream(arrow.content).schema.metadata
        assert json.loads(metadata[b"backstay.unanswered"]) == allowed.json()["unanswered"]
        wrong = http.post(f"{path}/lookup", json=body, headers={"Backstay-Partial": "maybe"})
        assert wrong.status_code == 400
        assert "Backstay-Partial must be true or false" in wrong.json()["detail"]
        health = http.get("/healthz").json()
        assert health["status"] == "degraded"
        assert 'backstay_lost_shards{replica="one"} 1.0' in http.get("/metrics").text
        assert "has died" in health["lost_shards"]["1"]
        assert http.get("/readyz").status_code == 200


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_clients_take_partial_answers(two, dtype):
    _, router, calls = two
    asked = [*USERS.tolist(), 41, 42, 43, 44]
    lost = shard_of(np.array(asked), 2) == 1
    known = np.isin(asked, USERS)

    async def ask(url):
        async with AsyncClient(url, batch=3) as client:
            return await client.lookup(
                SPACE, "user", asked, missing="skip", partial=True, dtype=dtype
            )

    with answering(router) as url:
        kill(calls[1], url)
        with Client(url, batch=3) as client:
            found = client.lookup(SPACE, "user", asked, missing="skip", partial=True, dtype=dtype)
        for result in (found, asyncio.run(ask(url))):
            assert result.ids.tolist() == np.array(asked)[known & ~lost].tolist()
            assert result.missing.tolist() == np.array(asked)[~known & ~lost].tolist()
            assert result.unanswered.tolist() == np.array(asked)[lost].tolist()
            expected = served.tables_of(0)["user"][~lost[: len(USERS)]].astype(dtype)
            np.testing.assert_array_equal(result.values, expected)
        with Client(url, retries=0) as client, pytest.raises(ServiceError, match="answered 503"):
            client.lookup(SPACE, "user", asked)


def test_the_command_reports_what_was_not_answered(two):
    _, router, calls = two
    lost = [id_ for id_ in USERS.tolist() if shard_of(np.array([id_]), 2)[0] == 1]
    with answering(router) as url:
        kill(calls[1], url)
        command = ["lookup", "--json", "--partial", "--url", url, "--space", SPACE]
        command += ["--entity", "user", "--", *map(str, USERS.tolist())]
        done = run_python("-m", "backstay", *command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["unanswered"] == lost
    assert f"{len(lost)} ids are not answered" in done.stderr
