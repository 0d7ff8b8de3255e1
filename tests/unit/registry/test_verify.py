import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backstay.errors import CorruptError, NotFoundError
from backstay.registry.retirement import retire
from backstay.registry.verify import verify
from backstay.storage.files import FileDigest
from tests.support.builders import fill

PART = "tables/item/part-00001.parquet"


@pytest.fixture
def published(space):
    fill(space, 3, 4)
    return space


def _found(space, version=1):
    return {(problem.kind, problem.path) for problem in verify(space, version)}


def test_a_flipped_byte_is_found(published):
    path = published.path(1, PART)
    data = bytearray(published.files.read(path))
    data[40] ^= 1
    published.files.write(path, bytes(data))
    assert _found(published) == {("changed", PART)}
    assert "SHA-256" in verify(published, 1)[0].message


def test_a_truncated_file_is_found(published):
    path = published.path(1, "model.safetensors")
    data = published.files.read(path)
    published.files.write(path, data[:-5])
    (problem,) = verify(published, 1)
    assert (problem.kind, problem.path) == ("changed", "model.safetensors")
    assert f"should have {len(data)} bytes; found {len(data) - 5}" in problem.message
    with pytest.raises(CorruptError, match=f"should have {len(data)} bytes; found"):
        published.model(1)


def test_a_missing_and_an_extra_file_are_found(published):
    published.files.remove(published.path(1, PART))
    published.files.write(published.path(1, "tables/item/part-00009.parquet"), b"?")
    assert _found(published) == {
        ("missing", PART),
        ("stray", "tables/item/part-00009.parquet"),
    }
    assert _found(published, 0) == set()


def _edit(space, version, **changes):
    """Publish another manifest in the place of one, as a faulty publisher would."""
    manifest = dataclasses.replace(space.find_manifest(version), **changes)
    space.files.write(space.path(version, "manifest.json"), manifest.to_json())


def test_a_parent_that_was_changed_is_found_by_its_children(published):
    fill(published, 5)
    _edit(published, 0, method="another")
    assert _found(published, 0) == {("changed", "manifest.json")}
    assert _found(published, 1) == _found(published, 2) == {("parent", "manifest.json")}
    with pytest.raises(CorruptError, match="as version 1 recorded it"):
        published.fresh().table(0, "item")


def test_a_manifest_that_was_edited_or_moved_is_found(published):
    path = published.path(1, "manifest.json")
    data = published.files.read(path)
    published.files.write(path, data + b" ")
    assert _found(published) == {("changed", "manifest.json")}
    published.files.write(path, data[:50])
    assert _found(published) == {("changed", "manifest.json")}
    published.files.write(path, published.files.read(published.path(0, "manifest.json")))
    assert ("changed", "manifest.json") in _found(published)


def test_a_version_that_is_not_there_is_no_clean_version(published):
    with pytest.raises(NotFoundError):
        verify(published, 5)


def test_what_should_have_gone_with_a_retired_version_is_found(published):
    data = published.files.read(published.path(0, PART))
    retire(published, 0)
    published.files.write(published.path(0, PART), data)
    assert _found(published, 0) == {("stray", PART)}
    retire(published, 0)
    assert _found(published, 0) == set()


def _republish(space, name, data):
    """Put `data` in the place of a file, as a faulty publisher would: with its true hash."""
    import hashlib  # noqa: PLC0415

    space.files.write(space.path(1, name), data)
    digest = FileDigest(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    files = {**space.manifest(1).files, name: digest}
    _edit(space, 1, files=files)


def _rewritten(space, change):
    table = pq.read_table(pa.BufferReader(space.files.read(space.path(1, PART))))
    sink = pa.BufferOutputStream()
    pq.write_table(change(table), sink)
    return sink.getvalue().to_pybytes()


def _with_vectors(table, vectors):
    field = pa.field("embedding", vectors.type)
    return table.set_column(1, field, vectors)


def _nan(table):
    values = table["embedding"].combine_chunks().flatten().to_numpy().copy()
    values[5] = float("nan")
    return _with_vectors(table, pa.FixedSizeListArray.from_arrays(pa.array(values), 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_nan, "isn't finite"),
        (lambda t: _with_vectors(t, t["embedding"].cast(pa.list_(pa.float32()))), "fixed-size"),
        (lambda t: _with_vectors(t, t["embedding"].cast(pa.list_(pa.float64(), 4))), "float32"),
        (lambda t: t.slice(0, 2), "rows"),
        (lambda t: t.take([0, 1, 2, 2]), "twice"),
        (lambda t: t.replace_schema_metadata({"backstay.version": "0"}), "version 0"),
        (lambda t: t.rename_columns(["key", "embedding"]), "columns id and embedding"),
    ],
)
def test_a_table_published_wrong_is_found(published, change, message):
    _republish(published, PART, _rewritten(published, change))
    (problem,) = verify(published, 1)
    assert (problem.kind, problem.path) == ("content", "tables/item")
    assert message in problem.message


def test_a_map_published_wrong_is_found(published):
    other = published.files.read(published.path(1, "backward.safetensors")).replace(
        b"movies", b"musics"
    )
    _republish(published, "backward.safetensors", other)
    (problem,) = verify(published, 1)
    assert (problem.kind, problem.path) == ("content", "backward.safetensors")
    assert "musics" in problem.message
