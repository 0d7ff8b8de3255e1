"""Finished cells as files: round trips, unfinished and damaged cells."""

import json
from itertools import product

import numpy as np
import pytest

from backstay.errors import CorruptError
from backstay.evaluation.comparison.cell_store import CellStore
from backstay.evaluation.comparison.keys import FitKey, JudgeKey, TrainKey
from backstay.evaluation.comparison.values import Fitted, Judgement
from tests.support.small_comparison import small_comparison, small_data

KEYS = {
    "nested": FitKey(2, "backstay"),
    "for-users-and-items": FitKey(2, "posthoc-low-rank"),
    "with-offset": FitKey(1, "posthoc-ridge"),
    "mapless": FitKey(1, "no-bc"),
    "first": FitKey(0),
    "judgement": JudgeKey(2, "bc-aligner"),
    "first-judgement": JudgeKey(0, "no-bc"),
    "consumers": TrainKey("edge_rating"),
}


@pytest.fixture(scope="module")
def cells():
    return small_comparison().outputs


@pytest.fixture
def store(tmp_path):
    return CellStore(tmp_path / "cells")


def check_fitted(found, expected):
    data = small_data()
    for name in ("version", "curves", "seconds", "peak_rss_mb"):
        assert getattr(found, name) == getattr(expected, name)
    step = data.steps[-1]
    np.testing.assert_array_equal(
        found.model.embed(step, data.attributes), expected.model.embed(step, data.attributes)
    )
    ours, theirs = found.model, expected.model
    while theirs is not None:
        assert (ours.config, ours.vocabulary) == (theirs.config, theirs.vocabulary)
        ours, theirs = ours.base, theirs.base
    assert ours is None
    for ours, theirs in zip(found.backward, expected.backward, strict=True):
        assert (ours.user is ours.item) == (theirs.user is theirs.item)
        for kind in ("user", "item"):
            for part in ("matrix", "offset"):
                again, before = (getattr(getattr(maps, kind), part) for maps in (ours, theirs))
                assert again.dtype == np.float32
                np.testing.assert_array_equal(again, before)


def check_judgement(found, expected):
    assert (found.version, found.records, found.maps) == (
        expected.version,
        expected.records,
        expected.maps,
    )
    np.testing.assert_array_equal(found.recall, expected.recall)
    assert list(found.aucs) == list(expected.aucs)  # the last bit of their mean depends on it
    for task, replicates in expected.aucs.items():
        np.testing.assert_array_equal(found.aucs[task], replicates)


def check_consumers(found, expected):
    x = np.random.default_rng(0).normal(size=(5, expected[0].dim)).astype(np.float32)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.scores(x), theirs.scores(x))
        for name in ("task", "dim", "width", "dropout", "seed", "epoch", "validation_auc"):
            assert getattr(ours, name) == getattr(theirs, name)


CHECKS = {Fitted: check_fitted, Judgement: check_judgement, list: check_consumers}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_cell_comes_back_as_it_was(store, cells, key):
    store.save(key, cells[key])
    found = CellStore(store.folder).find(key)
    assert type(found) is type(cells[key])
    CHECKS[type(found)](found, cells[key])


def test_the_tested_cells_are_of_every_kind(cells):
    nested, maps = cells[KEYS["nested"]].model, cells[KEYS["for-users-and-items"]].backward[0]
    assert nested.base.base is not None
    assert maps.user is not maps.item
    assert cells[KEYS["with-offset"]].backward[0].user.offset.any()
    assert {type(cells[key]) for key in KEYS.values()} == set(CHECKS)


def test_every_cell_has_a_place_of_its_own(store, cells):
    keys = small_comparison().keys
    assert all(store.find(key) is None for key in keys)
    assert len({key.folder for key in keys}) == len(set(keys)) == len(keys)
    first, second = FitKey(1, "no-bc"), FitKey(1, "finetune")
    store.save(first, cells[first])
    assert store.find(second) is None
    store.save(second, cells[second])
    check_fitted(store.find(first), cells[first])


def test_a_cells_folder_and_file_have_its_label(store, cells):
    key = KEYS["nested"]
    store.save(key, cells[key])
    (place,) = store.folder.iterdir()
    assert place.name == "fit-version-2-by-backstay"
    assert json.loads((place / "cell.json").read_text())["cell"] == key.label


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_an_interrupted_cell_is_not_finished_and_is_repeated(store, cells, key):
    store.save(key, cells[key])
    (place,) = store.folder.iterdir()
    (place / "cell.json").unlink()
    (place / "left-over").write_bytes(b"half")
    assert store.find(key) is None
    store.save(key, cells[key])
    assert not (place / "left-over").exists()
    CHECKS[type(cells[key])](store.find(key), cells[key])


def test_the_file_that_marks_a_cell_as_finished_is_written_last(store, cells, monkeypatch):
    written = []

    def note(path, content):
        written.append(path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    for module in ("comparison.cell_store", "consumers.model"):
        monkeypatch.setattr(f"backstay.evaluation.{module}.write_file", note)
    for key in KEYS.values():
        store.save(key, cells[key])
    assert written.count("cell.json") == len(KEYS)
    assert written[-1] == "cell.json"
    for place in store.folder.iterdir():
        files = {path.name for path in place.iterdir()} - {"cell.json"}
        end = [n for n, name in enumerate(written) if name == "cell.json"]
        assert files <= set(written[: end[-1]])


def truncated(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


def lost(path):
    path.unlink()


def no_safetensors(path):
    path.write_bytes(b"not tensors at all, and long enough to have a header")


@pytest.mark.parametrize(
    ("key", "file"),
    [
        (KEYS["nested"], "model.safetensors"),
        (KEYS["nested"], "maps.safetensors"),
        (KEYS["judgement"], "replicates.safetensors"),
        (KEYS["consumers"], "consumer-1.safetensors"),
    ],
)
@pytest.mark.parametrize("damage", [truncated, empty, lost, no_safetensors])
def test_the_error_for_a_damaged_file_names_its_folder_and_what_to_do(
    store, cells, key, file, damage
):
    store.save(key, cells[key])
    (place,) = store.folder.iterdir()
    damage(place / file)
    with pytest.raises(
        CorruptError, match="remove the folder and run the comparison again"
    ) as error:
        store.find(key)
    assert str(error.value).startswith(f"{place} holds a finished cell")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("nested", lambda about: about.pop("kind")),
        ("nested", lambda about: about.update(maps=3)),  # more than there are
        ("nested", lambda about: about.pop("seconds")),
        ("judgement", lambda about: about.pop("records")),
        ("judgement", lambda about: about["records"][0].update(metric="magic")),
        ("judgement", lambda about: about["records"][0].update(value=None)),
        ("judgement", lambda about: about.update(tasks=["edge_rating", "magic"])),
        ("consumers", lambda about: about.update(count=3)),
    ],
)
def test_a_cell_with_impossible_values_is_damaged_too(store, cells, name, change):
    key = KEYS[name]
    store.save(key, cells[key])
    (place,) = store.folder.iterdir()
    about = json.loads((place / "cell.json").read_text())
    change(about)
    (place / "cell.json").write_text(json.dumps(about))
    with pytest.raises(CorruptError, match="remove the folder"):
        store.find(key)


@pytest.mark.parametrize("text", ["", "[]", "{", '"kind"', "\N{SNOWMAN}", "{}"])
def test_a_damaged_description_is_an_error_too(store, cells, text):
    key = KEYS["consumers"]
    store.save(key, cells[key])
    (place,) = store.folder.iterdir()
    (place / "cell.json").write_text(text, encoding="utf-8")
    with pytest.raises(CorruptError, match="train-consumers-of-edge_rating"):
        store.find(key)


def test_files_hold_arrays_and_text_alone(store, cells):
    for key in KEYS.values():
        store.save(key, cells[key])
    suffixes = {path.suffix for path in store.folder.rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json"}
    for place, marker in product(store.folder.iterdir(), (b"pickle", b"__reduce__")):
        assert not any(marker in path.read_bytes() for path in place.iterdir())
