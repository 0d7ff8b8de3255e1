"""The contract of a registry, on every kind of file system."""

import json
import pickle
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.compat.maps import BackwardMap, compose
from backstay.errors import (
    InputError,
    MapMismatchError,
    NotFoundError,
    RegistryError,
    UsageError,
    VersionExistsError,
)
from backstay.registry.retirement import retire
from backstay.registry.store import Registry
from backstay.registry.verify import verify
from tests.support.builders import fill, publish, stage


def test_an_empty_registry_has_nothing_and_says_what_to_do(registry):
    assert registry.spaces() == []
    assert registry.space("movies").versions() == []
    with pytest.raises(NotFoundError, match=r"found no registry at .*backstay update"):
        registry.space("movies").latest()


def test_a_registry_without_the_space_names_the_spaces_it_has(registry):
    fill(registry.space("movies"), 4)
    with pytest.raises(
        NotFoundError, match=r"no published version of books \(spaces: movies\).*backstay update"
    ):
        registry.space("books").latest()


def test_what_is_published_comes_back(registry):
    space = registry.space("movies")
    fill(space, 4, 6)

    assert registry.spaces() == ["movies"]
    assert space.versions() == [0, 1]
    assert space.latest() == 1
    manifest = space.manifest(1)
    assert (manifest.space, manifest.version, manifest.parent) == ("movies", 1, 0)
    assert manifest.parent_manifest_sha256 == space.manifest(0).sha256
    assert manifest.dims == {0: 4, 1: 6}
    assert manifest.dim == 6
    assert {name: entry.rows for name, entry in manifest.entities.items()} == {
        "item": 10,
        "user": 10,
    }
    assert space.metrics(1) == {"recall50": 0.25}
    assert verify(space, 0) == verify(space, 1) == []


def test_a_model_comes_back_bit_for_bit(space):
    weights = {
        "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
        "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "scalar": np.array(7),
        "none": np.zeros((0, 3), np.float32),
    }
    vocabulary = {"brand": ("", "Fender", "日本語"), "empty": ()}
    draft = space.draft(0, run_id="r")
    draft.write_model({"layers": 2, "dims": (1, 2)}, weights, vocabulary)
    publish(draft, dim=3)

    model = space.model(0)
    assert model.config == {"layers": 2, "dims": [1, 2]}
    assert model.vocabulary == vocabulary
    assert list(model.vocabulary) == ["brand", "empty"]
    assert model.weights.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(model.weights[name], array, strict=True)


@pytest.mark.parametrize("ids", [["é", "日本", "", "a/b", "🎸"], [3, -1, 2**62, 0, 7]])
def test_a_table_comes_back_in_order(space, ids):
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    draft = space.draft(0, run_id="r")
    draft.write_table("user", [(pa.array(ids), values)], part_rows=2)
    publish(draft)

    table = space.table(0, "user")
    assert (table.space, table.entity, table.version) == ("movies", "user", 0)
    assert (table.rows, table.dim, len(table.parts)) == (5, 3, 3)
    found, vectors = table.read()
    assert found.to_pylist() == ids
    np.testing.assert_array_equal(vectors, values, strict=True)
    assert table.vectors().version == 0
    assert [len(ids) for ids, _ in table.batches(1)] == [1] * 5


def test_two_readers_of_a_table_do_not_disturb_each_other(space):
    fill(space, 4)
    table = space.table(0, "item")
    for (ids, values), (other_ids, other_values) in zip(
        table.batches(3), table.batches(3), strict=True
    ):
        assert ids == other_ids
        np.testing.assert_array_equal(values, other_values)


def test_an_empty_table_is_a_table(space):
    draft = space.draft(0, run_id="r")
    draft.write_table("item", [(pa.array([], pa.string()), np.zeros((0, 5), np.float32))])
    publish(draft)

    ids, values = space.table(0, "item").read()
    assert (len(ids), ids.type, values.shape) == (0, pa.string(), (0, 5))
    assert verify(space, 0) == []


def test_asking_for_what_is_not_there_says_what_is(space):
    fill(space, 4)
    draft = space.draft(1, run_id="bare")
    draft.write_table("item", [(pa.array([1]), np.ones((1, 4), np.float32))])
    publish(draft, method="no-bc")

    with pytest.raises(NotFoundError, match=r"no version 7; published are \[0, 1\]"):
        space.manifest(7)
    with pytest.raises(NotFoundError, match=r"no table of 'shop'; it has \['item', 'user'\]"):
        space.table(0, "shop")
    with pytest.raises(NotFoundError, match="without model"):
        space.model(1)
    with pytest.raises(NotFoundError, match="without metrics"):
        space.metrics(1)
    with pytest.raises(NotFoundError, match="it is the first version"):
        space.backward_map(0)
    with pytest.raises(NotFoundError, match=r"no-bc without one, so every chain .* is broken here"):
        space.chain(1, 0)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "-x", "naïve", "a b"])
def test_a_name_that_cannot_be_a_folder_is_refused(registry, name):
    with pytest.raises(UsageError, match="expected letters, digits"):
        registry.space(name)
    with pytest.raises(UsageError, match="a run"):
        registry.space("movies").draft(0, run_id=name)
    with pytest.raises(UsageError, match="an entity"):
        registry.space("movies").draft(0, run_id="r").write_table(name, [])


def test_a_space_and_its_tables_can_be_pickled(local_space):
    fill(local_space, 4)
    copy = pickle.loads(pickle.dumps(local_space))
    table = pickle.loads(pickle.dumps(local_space.table(0, "item")))
    assert copy.versions() == [0]
    assert table.read()[0] == local_space.table(0, "item").read()[0]


def test_each_manifest_is_read_once(s3):
    space = fill(Registry(f"{s3.bucket()}/r", storage_options=s3.storage_options).space("m"), 3, 4)
    reader = space.fresh()
    with s3.record() as requests:
        reader.manifest(1)
        reader.model(1)
        reader.chain(1, 0)
        for entity in ("item", "user"):
            for version in (0, 1):
                reader.table(version, entity).read()
    read = [request for request in requests if request.startswith("GET")]
    manifests = [f"versions/{k}/manifest.json" for k in (0, 1)]
    assert [sum(name in request for request in read) for name in manifests] == [1, 1], read


# --- chains


def test_a_chain_is_the_product_a_slow_loop_takes(space):
    fill(space, 3, 4, 5, 6)
    expected = space.backward_map(1).matrix.astype(np.float64).tolist()
    for k in (2, 3):
        newer = space.backward_map(k).matrix.astype(np.float64).tolist()
        expected = [
            [sum(row[m] * newer[m][n] for m in range(len(newer))) for n in range(len(newer[0]))]
            for row in expected
        ]
    chain = space.chain(3, 0)
    assert (chain.space, chain.source, chain.target) == ("movies", 3, 0)
    np.testing.assert_array_equal(chain.matrix, np.array(expected).astype(np.float32))


def test_the_chain_to_itself_changes_nothing(space):
    fill(space, 3, 4)
    vectors = space.table(1, "item").vectors()
    np.testing.assert_array_equal(
        space.chain(1, 1).convert(vectors).values, vectors.values, strict=True
    )


def test_no_chain_leads_to_a_newer_version(space):
    fill(space, 3, 4)
    with pytest.raises(MapMismatchError, match="newer versions to older ones; found 0 → 1"):
        space.chain(0, 1)


@settings(max_examples=15, deadline=None)
@given(dims=st.lists(st.integers(1, 6), min_size=3, max_size=5), data=st.data())
def test_chains_compose_wherever_they_are_cut(dims, data):
    registry = Registry("memory://associative")
    space = registry.space("s")
    try:
        fill(space, *dims)
        last = len(dims) - 1
        cut = data.draw(st.integers(0, last))
        whole = space.chain(last, 0).matrix
        halves = compose([space.chain(cut, 0), space.chain(last, cut)]).matrix
        np.testing.assert_allclose(whole, halves, rtol=1e-4, atol=1e-5)
    finally:
        registry.files.remove("")


# --- what may be published


def test_versions_come_one_after_the_other(space):
    draft = space.draft(1, run_id="early")
    stage(draft)
    with pytest.raises(
        RegistryError, match="next version of movies is 0; found a draft of version 1"
    ):
        publish(draft)
    fill(space, 4)
    with pytest.raises(RegistryError, match="parent of version 1 must be 0; found None"):
        publish(draft, parent=None)
    assert publish(draft).version == 1


def test_a_map_of_another_space_or_version_is_refused(space):
    fill(space, 4)
    draft = space.draft(1, run_id="r")
    matrix = np.eye(4, dtype=np.float32)
    for wrong in (BackwardMap("books", 1, 0, matrix), BackwardMap("movies", 2, 1, matrix)):
        with pytest.raises(MapMismatchError, match="takes the map"):
            draft.write_backward(wrong)
    assert draft.staged == {}


def test_a_map_that_is_not_float32_is_refused(space):
    draft = space.draft(1, run_id="r")
    with pytest.raises(InputError, match="float32"):
        draft.write_backward(BackwardMap("movies", 1, 0, np.eye(4)))


def test_a_map_of_the_wrong_shape_is_refused(space):
    fill(space, 4)
    draft = space.draft(1, run_id="r")
    stage(draft, dim=6, previous_dim=5)
    with pytest.raises(MapMismatchError, match=r"must have 4 rows.*found shape \(5, 6\)"):
        publish(draft)
    assert space.versions() == [0]


def test_a_version_has_one_dimension(space):
    draft = space.draft(0, run_id="r")
    stage(draft, dim=4)
    draft.write_table("shop", [(pa.array([1]), np.ones((1, 5), np.float32))])
    with pytest.raises(InputError, match="table item 4, table shop 5, table user 4"):
        publish(draft)
    draft.write_table("shop", [(pa.array([1]), np.ones((1, 4), np.float32))])
    with pytest.raises(InputError, match="dim 9"):
        publish(draft, dim=9)
    assert publish(draft).dim == 4


def test_a_version_of_nothing_is_refused(space):
    draft = space.draft(0, run_id="r")
    draft.write_metrics({})
    with pytest.raises(RegistryError, match="neither a model nor a table"):
        publish(draft, dim=3)


def test_a_config_that_is_no_json_is_refused(space):
    draft = space.draft(0, run_id="r")
    stage(draft)
    with pytest.raises(InputError, match="must be JSON"):
        publish(draft, config={"loss": float("nan")})
    assert space.versions() == []
    assert space.claim(0) is None


# --- drafts and claims


def test_nothing_of_a_draft_is_seen_before_it_is_published(registry):
    stage(registry.space("movies").draft(0, run_id="r"))
    assert registry.spaces() == []
    (draft,) = registry.space("movies").drafts()
    assert (draft.run_id, draft.version) == ("r", 0)
    assert draft.size > 0


def test_a_draft_opened_again_goes_on(space):
    stage(space.draft(0, run_id="r"))
    again = space.draft(0, run_id="r")
    assert "model.safetensors" in again.staged
    publish(again)
    assert verify(space, 0) == []
    assert space.drafts() == []


def test_writing_again_replaces_what_was_staged(space):
    draft = space.draft(0, run_id="r")
    for rows in (9, 2):
        ids = pa.array(range(rows))
        draft.write_table("item", [(ids, np.ones((rows, 3), np.float32))], part_rows=2)
    publish(draft)
    assert space.table(0, "item").rows == 2
    assert verify(space, 0) == []


def test_a_table_that_fails_half_way_leaves_nothing_staged(space):
    draft = space.draft(0, run_id="r")
    good = (pa.array([1, 2]), np.ones((2, 3), np.float32))
    bad = (pa.array([3, 4]), np.full((2, 3), np.nan, np.float32))
    with pytest.raises(InputError, match="row 2, id 3"):
        draft.write_table("item", [good, bad], part_rows=2)
    assert draft.staged == {}
    assert not space.files.find("")


def test_a_run_stages_one_version(space):
    stage(space.draft(0, run_id="r"))
    with pytest.raises(RegistryError, match="has staged version 0"):
        space.draft(1, run_id="r")


def test_the_second_publisher_is_refused_and_keeps_its_files(space):
    first, second = space.draft(0, run_id="first"), space.draft(0, run_id="second")
    stage(first, seed=1)
    stage(second, seed=2)
    kept = second.staged
    won = publish(first)
    with pytest.raises(VersionExistsError, match=r"run first has published it.*kept in .*second"):
        publish(second)
    assert space.manifest(0) == won
    assert verify(space, 0) == []
    assert space.draft(0, run_id="second").staged == kept
    second.discard()
    assert space.drafts() == []


def test_publishing_twice_is_publishing_once(space):
    draft = space.draft(0, run_id="r")
    stage(draft)
    first = publish(draft)
    assert publish(space.draft(0, run_id="r")) == first
    again = space.draft(0, run_id="r")
    stage(again)
    assert publish(again) == first
    other = space.draft(0, run_id="r")
    stage(other, seed=5)
    with pytest.raises(VersionExistsError, match="already, with other files"):
        publish(other)


def test_of_many_threads_one_publishes(space):
    drafts = [space.draft(0, run_id=f"r{n}") for n in range(8)]
    for n, draft in enumerate(drafts):
        stage(draft, seed=n)

    def attempt(draft):
        try:
            return publish(draft)
        except VersionExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [manifest for manifest in pool.map(attempt, drafts) if manifest]
    assert len(won) == 1
    assert space.manifest(0) == won[0]
    assert verify(space, 0) == []
    assert len(space.drafts()) == 7


def _claim(space, **changes):
    claim = {"run_id": "dead", "host": "elsewhere", "pid": 1, "started": 5, "time": "then"}
    space.files.write(space.path(0, "claim.json"), json.dumps({**claim, **changes}).encode())


def test_a_dead_publishers_claim_is_named_and_can_be_released(space):
    _claim(space)
    space.files.write(space.path(0, "model.safetensors"), b"half of a model")
    draft = space.draft(0, run_id="mine")
    stage(draft)
    with pytest.raises(
        VersionExistsError, match=r"run dead \(host elsewhere, .*release_claim\(0\)"
    ):
        publish(draft)
    assert space.claim(0).run_id == "dead"
    assert space.versions() == []

    space.release_claim(0)
    publish(draft)
    assert verify(space, 0) == []
    with pytest.raises(NotFoundError, match="no unfinished claim"):
        space.release_claim(0)


def test_a_live_publishers_claim_is_not_released(space):
    import os  # noqa: PLC0415

    from backstay.storage.processes import started, this_process  # noqa: PLC0415

    parent = os.getppid()
    _claim(space, **{**asdict(this_process()), "pid": parent, "started": started(parent)})
    with pytest.raises(RegistryError, match="let it finish or stop it first"):
        space.release_claim(0)
    draft = space.draft(0, run_id="dead")
    stage(draft)
    with pytest.raises(RegistryError, match="is publishing this very draft"):
        publish(draft)
    space.release_claim(0, force=True)
    assert space.claim(0) is None


def test_files_of_a_dead_attempt_do_not_stay(space):
    _claim(space, run_id="r", host=socket.gethostname(), pid=2**22 + 1)
    space.files.write(space.path(0, "tables/item/part-00099.parquet"), b"left over")
    draft = space.draft(0, run_id="r")
    stage(draft)
    publish(draft)
    assert verify(space, 0) == []


def test_a_store_without_exclusive_create_is_refused(space):
    from backstay.storage.files import Files  # noqa: PLC0415

    with pytest.raises(RegistryError, match="no exclusive create"):
        Files(space.files.fs, space.files.root).create("x", b"1")


# --- retiring


def test_a_retired_version_lives_on_through_the_chain(space):
    fill(space, 3, 4, 5)
    before = space.chain(2, 0).matrix
    retirement = retire(space, 1, reason="storage")

    assert retirement.reason == "storage"
    assert retirement.freed > 0
    assert space.retired(1).freed == retirement.freed
    assert space.versions() == [0, 1, 2]
    np.testing.assert_array_equal(space.chain(2, 0).matrix, before)
    assert space.manifest(2).parent_manifest_sha256 == space.manifest(1).sha256
    for ask in (lambda: space.table(1, "item"), lambda: space.model(1)):
        with pytest.raises(NotFoundError, match=r"was retired on .*convert .* --from 2 --to 1 "):
            ask()
    assert all(verify(space, k) == [] for k in (0, 1, 2))
    assert retire(space, 1, reason="again").reason == "storage"


def test_the_latest_version_cannot_be_retired(space):
    fill(space, 3)
    with pytest.raises(RegistryError, match="is the latest"):
        retire(space, 0)


def test_a_version_that_no_chain_reaches_is_retired_only_by_force(space):
    fill(space, 3)
    draft = space.draft(1, run_id="bare")
    stage(draft)
    publish(draft, method="no-bc")
    with pytest.raises(RegistryError, match="would lose its vectors"):
        retire(space, 0)
    assert space.retired(0) is None
    retire(space, 0, force=True)
    with pytest.raises(NotFoundError, match="retired"):
        space.table(0, "item")


def test_a_rival_that_publishes_between_two_looks_is_met_as_a_rival(space, monkeypatch):
    rival, late = (space.draft(0, run_id=run) for run in ("rival", "late"))
    stage(rival)
    stage(late)

    def versions():
        monkeypatch.undo()
        publish(rival)
        return space.versions()

    monkeypatch.setattr(space, "versions", versions)
    with pytest.raises(VersionExistsError, match="run rival has published it"):
        publish(late)
    assert late.staged
