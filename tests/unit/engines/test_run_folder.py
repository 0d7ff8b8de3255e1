"""Whose folder it is."""

import json

import pytest

from backstay.engines.run_folder import PLAN_FILE, claim_folder
from backstay.errors import InputError

WHAT = {"plan": {"epochs": 3, "dims": (8, 12)}, "data": "f00d"}


def claim(out, what=WHAT, *, result="results.json"):
    claim_folder(out, what, result=result)


@pytest.fixture
def claimed(tmp_path):
    out = tmp_path / "runs" / "first"
    claim(out)
    return out


def test_a_claimed_folder_records_its_run(claimed):
    assert json.loads((claimed / PLAN_FILE).read_text()) == json.loads(json.dumps(WHAT))


def test_an_empty_folder_is_taken(tmp_path):
    claim(tmp_path)
    assert (tmp_path / PLAN_FILE).is_file()


def test_the_same_run_goes_on_in_what_it_has_left(claimed):
    (claimed / "cells").mkdir()
    claim(claimed, dict(reversed(WHAT.items())))
    assert (claimed / "cells").is_dir()


@pytest.mark.parametrize("other", [WHAT | {"data": "beef"}, WHAT | {"plan": {"epochs": 4}}])
def test_another_run_is_refused_and_changes_nothing(claimed, other):
    before = (claimed / PLAN_FILE).read_text()
    for result in ("results.json", None):
        with pytest.raises(InputError, match="holds another run, begun with other options"):
            claim(claimed, other, result=result)
    assert (claimed / PLAN_FILE).read_text() == before


def test_a_finished_run_is_refused_unless_it_may_go_on(claimed):
    (claimed / "results.json").write_text("{}")
    with pytest.raises(InputError, match="holds a finished run"):
        claim(claimed)
    claim(claimed, result=None)
    assert (claimed / "results.json").read_text() == "{}"


@pytest.mark.parametrize("result", ["results.json", None])
def test_a_folder_of_other_things_is_refused(tmp_path, result):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        claim(tmp_path, result=result)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
