"""What was changed after publishing is refused where it is loaded, never used."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backstay.errors import CorruptError, InputError, RegistryError
from backstay.registry.manifest import Manifest
from backstay.registry.stored import open_table
from backstay.registry.table_writer import write_table_parts
from backstay.registry.tables import open_parts
from backstay.registry.verify import verify
from backstay.serving.copies import Key, open_table_copy
from tests.support.builders import fill, publish, stage


@pytest.fixture
def published(space):
    fill(space, 3, 4)
    return space


def _flip(space, path, byte, bit=0):
    data = bytearray(space.files.read(path))
    data[byte] ^= 1 << bit
    space.files.write(path, bytes(data))


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("model.safetensors", lambda space: space.model(1)),
        ("backward.safetensors", lambda space: space.backward_map(1)),
        ("backward.safetensors", lambda space: space.chain(1, 0)),
        ("metrics.json", lambda space: space.metrics(1)),
        ("manifest.json", lambda space: space.manifest(1)),
        ("tables/item/part-00001.parquet", lambda space: space.table(1, "item").read()),
    ],
)
@pytest.mark.parametrize("byte", [9, -9])
def test_a_flipped_bit_is_refused_at_load(published, name, load, byte):
    load(published)
    _flip(published, published.path(1, name), byte)
    with pytest.raises(CorruptError, match=name):
        load(published.fresh())


def test_a_damaged_table_is_not_copied_into_the_service_s_cache(published, registry, tmp_path):
    key = Key("movies", "item", 1, published.manifest(1).sha256)
    _flip(published, published.path(1, "tables/item/part-00000.parquet"), 30)
    with pytest.raises(CorruptError, match="should have SHA-256"):
        open_table_copy(registry, key, cache=tmp_path)
    assert [entry.suffix for entry in tmp_path.glob("movies/item/*")] == [".lock"]


def test_the_manifest_of_another_version_or_space_is_refused(published, registry):
    older = published.files.read(published.path(0, "manifest.json"))
    published.files.write(published.path(1, "manifest.json"), older)
    with pytest.raises(CorruptError, match="manifest of movies version 0; expected that of movies"):
        published.table(1, "item")

    books = registry.space("books")
    fill(books, 4)
    books.files.write(books.path(0, "manifest.json"), older)
    with pytest.raises(CorruptError, match="expected that of books version 0"):
        books.manifest(0)


@pytest.mark.parametrize(
    "change",
    [
        {"space": "../../../escaped"},
        {"space": ""},
        {"files": {"../../escaped": {"size": 1, "sha256": "0"}}},
        {"files": {"/etc/passwd": {"size": 1, "sha256": "0"}}},
        {"files": {"tables/item/\x1b[2J.parquet": {"size": 1, "sha256": "0"}}},
        {"entities": {"../item": {"rows": 1, "id_type": "int64"}}},
        {"entities": {"a/b": {"rows": 1, "id_type": "int64"}}},
        {"dims": {"0": 3}},
        {"dims": {"0": 3, "1": 0}},
        {"parent": 5},
    ],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_manifest_with_unsafe_content_is_refused(local_space, change, sealed):
    fill(local_space, 3, 4)
    path = local_space.path(1, "manifest.json")
    raw = json.loads(local_space.files.read(path))
    if not sealed:
        raw = {k: v for k, v in raw.items() if k not in {"build", "claim", "checksum"}}
        raw["format"] = 1
    local_space.files.write(path, json.dumps({**raw, **change}).encode())
    with pytest.raises(CorruptError, match=r"is no manifest \((expected|it is)"):
        local_space.table(1, "item")


def test_manifests_of_the_first_format_are_still_read(local_space):
    fill(local_space, 3, 4)
    for version in (0, 1):
        old = dataclasses.replace(local_space.find_manifest(version), format=1)
        if version:
            parent = local_space.fresh().find_manifest(0)
            old = dataclasses.replace(old, parent_manifest_sha256=parent.sha256)
        local_space.files.write(local_space.path(version, "manifest.json"), old.to_json())
    local_space = local_space.fresh()
    assert local_space.manifest(1).build is None
    assert b"checksum" not in local_space.manifest(1).to_json()
    assert verify(local_space, 0) == []
    assert len(local_space.manifest(1).fingerprint("item")) == 16


def test_a_version_of_a_newer_format_leaves_the_others_readable(published):
    path = published.path(1, "manifest.json")
    raw = {**json.loads(published.files.read(path)), "format": 99}
    published.files.write(path, json.dumps(raw).encode())
    with pytest.raises(RegistryError, match=r"format 99; this Backstay reads up to .* Upgrade"):
        published.manifest(1)
    assert published.table(0, "item").read()[1].shape == (10, 3)
    assert verify(published, 0) == []
    (defect,) = verify(published, 1)
    assert defect.kind == "unreadable"
    assert "Upgrade" in defect.message


def test_a_flipped_bit_in_a_page_of_a_table_of_its_own_is_found(tmp_path):
    values = np.ones((100, 8), np.float32)
    write_table_parts(
        tmp_path / "out", [(pa.array(range(100)), values)], space="s", entity="e", version=0
    )
    part = tmp_path / "out" / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 4
    part.write_bytes(data)
    with pytest.raises(InputError, match=r"part-00000\.parquet is damaged .*CRC"):
        open_table(tmp_path / "out").read()


def _labelled(path, metadata):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0], pa.float32()), 1)
    table = pa.table({"id": [1], "embedding": vectors})
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_metadata_that_is_no_utf_8_is_refused_in_one_line(tmp_path):
    _labelled(tmp_path / "t.parquet", {b"backstay.space": b"\xff\x1b"})
    with pytest.raises(InputError, match=r"metadata that is not UTF-8 .*Write the table anew"):
        open_table(tmp_path / "t.parquet", version=0)


@pytest.mark.parametrize("label", ["two", "-1", "²"])
def test_a_version_label_that_is_no_number_is_refused(tmp_path, label):
    _labelled(tmp_path / "t.parquet", {"backstay.version": label})
    with pytest.raises(InputError, match="expected a number"):
        open_table(tmp_path / "t.parquet", space="s")


def test_tables_and_maps_carry_the_fingerprint_of_their_build(published):
    manifest = published.manifest(1)
    table = published.table(1, "item")
    stored = open_parts(published.files, table.parts)
    assert stored.fingerprint == table.fingerprint == manifest.fingerprint("item")
    assert manifest.fingerprint("user") != manifest.fingerprint("item") != manifest.fingerprint()
    table.read()
    other = dataclasses.replace(table, fingerprint="0" * 16)
    with pytest.raises(InputError, match=f"fingerprint {table.fingerprint}; expected .*{'0' * 16}"):
        other.read()


def test_the_same_version_of_two_registries_has_two_fingerprints(registry):
    space, rival = registry.space("movies"), registry.space("rivals")
    fill(space, 4)
    draft = rival.draft(0, run_id="another")
    stage(draft)
    publish(draft)
    assert space.manifest(0).fingerprint() != rival.manifest(0).fingerprint()
    draft = registry.space("again").draft(0, run_id="run-0")
    stage(draft)
    assert publish(draft).fingerprint() != space.manifest(0).fingerprint()


def test_a_manifest_knows_every_changed_byte(local_space):
    fill(local_space, 3)
    data = local_space.files.read(local_space.path(0, "manifest.json"))
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 200):
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(RegistryError):
            Manifest.from_json(bytes(changed))
