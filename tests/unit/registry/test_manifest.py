import dataclasses
import hashlib
import json

import pytest

from backstay.errors import CorruptError, RegistryError
from backstay.registry.manifest import DatasetEntry, EntityEntry, Manifest
from backstay.storage.files import FileDigest

MANIFEST = Manifest(
    format=1,
    space="müsic",
    version=2,
    run_id="r",
    parent=1,
    parent_manifest_sha256="ab" * 32,
    method="bc-aligner",
    config={"weight": 16.0, "dims": [4, 5], "nested": {"a": None}},
    dims={0: 3, 1: 4, 2: 5, 10: 7},
    entities={"item": EntityEntry(rows=3, id_type="string")},
    dataset=DatasetEntry(fingerprint="f00", name=None, until=0.7),
    files={
        "tables/item/part-00001.parquet": FileDigest(size=2, sha256="0"),
        "tables/item/part-00000.parquet": FileDigest(size=1, sha256="1"),
        "tables/items/part-00000.parquet": FileDigest(size=1, sha256="2"),
    },
    created="2025-01-02T03:04:05Z",
    backstay="0.1.0",
)


def test_a_manifest_comes_back_from_its_bytes():
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert Manifest.from_json(MANIFEST.to_json()).to_json() == MANIFEST.to_json()


def test_its_hash_is_that_of_its_bytes_whatever_the_order():
    backwards = dataclasses.replace(MANIFEST, config=dict(reversed(MANIFEST.config.items())))
    assert backwards.sha256 == MANIFEST.sha256
    assert MANIFEST.sha256 == hashlib.sha256(MANIFEST.to_json()).hexdigest()
    assert dataclasses.replace(MANIFEST, version=1).sha256 != MANIFEST.sha256


def test_the_bytes_are_those_of_the_first_release():
    expected = "7b85a56a12709abdba46f7ff431ca821b347b6357c76a808fcfe8e8ce015d678"
    assert MANIFEST.sha256 == expected


@pytest.mark.parametrize("until", [1, 1.0, 0, None])
def test_a_number_stays_what_it_was_so_that_the_hash_does(until):
    dataset = DatasetEntry(fingerprint="f00", name=None, until=until)
    manifest = dataclasses.replace(MANIFEST, dataset=dataset, config={"n": 2**70, "x": 1e-7})
    assert Manifest.from_json(manifest.to_json()).sha256 == manifest.sha256


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"version": "2"}, "expected version to be a valid integer, found '2'"),
        ({"entities": {"item": {"rows": 1}}}, "entities.item.id_type is missing"),
        (
            {"entities": {"item": {"rows": 1, "id_type": "uuid"}}},
            "expected entities.item.id_type to be 'string' or 'int64', found 'uuid'",
        ),
    ],
)
def test_the_field_that_is_wrong_is_named_in_one_line(change, fault):
    raw = {**json.loads(MANIFEST.to_json()), **change}
    with pytest.raises(CorruptError) as caught:
        Manifest.from_json(json.dumps(raw).encode())
    assert str(caught.value).startswith(f"manifest.json is no manifest ({fault}). It was changed")


def test_the_parts_of_an_entity_are_its_own_in_order():
    assert MANIFEST.parts("item") == (
        "tables/item/part-00000.parquet",
        "tables/item/part-00001.parquet",
    )
    assert MANIFEST.dim == 5


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"\xff", b'{"format": 1}', b'{"format": 1, "dims": []}'],
)
def test_what_is_no_manifest_is_refused_by_name(data):
    with pytest.raises(CorruptError, match=r"here/manifest\.json is no manifest"):
        Manifest.from_json(data, path="here/manifest.json")


def test_an_unknown_field_is_refused():
    raw = {**json.loads(MANIFEST.to_json()), "extra": 1}
    with pytest.raises(CorruptError, match="extra"):
        Manifest.from_json(json.dumps(raw).encode())


def test_a_manifest_of_a_newer_backstay_is_refused():
    raw = {**json.loads(MANIFEST.to_json()), "format": 4}
    with pytest.raises(RegistryError, match=r"format 4; this Backstay reads up to 3\. Upgrade"):
        Manifest.from_json(json.dumps(raw).encode())
