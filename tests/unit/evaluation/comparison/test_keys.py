"""Keys of cells, and the outputs found by them."""

import pytest

from backstay.evaluation.comparison.keys import FitKey, JudgeKey, Outputs, TrainKey
from backstay.evaluation.comparison.results import Failure


@pytest.mark.parametrize(
    ("key", "label", "folder"),
    [
        (FitKey(0), "fit version 0", "fit-version-0"),
        (FitKey(1, "bc-aligner"), "fit version 1 by bc-aligner", "fit-version-1-by-bc-aligner"),
        (
            TrainKey("edge_rating"),
            "train consumers of edge_rating",
            "train-consumers-of-edge_rating",
        ),
        (JudgeKey(2, "no-bc"), "judge version 2 by no-bc", "judge-version-2-by-no-bc"),
    ],
)
def test_a_key_has_a_label_and_a_folder(key, label, folder):
    assert (key.label, key.folder) == (label, folder)


def test_keys_of_different_cells_differ():
    keys = [FitKey(0), FitKey(1, "no-bc"), FitKey(1, "backstay"), JudgeKey(1, "no-bc")]
    assert len(set(keys)) == len(keys)
    assert FitKey(1, "no-bc") == FitKey(1, "no-bc")


def test_outputs_are_found_by_key_and_failures_are_no_outputs():
    lost = Failure(cell="fit version 1 by no-bc", message="no luck")
    outputs = Outputs({FitKey(0): "first", FitKey(1, "no-bc"): lost})
    assert outputs[FitKey(0)] == outputs.get(FitKey(0)) == outputs.outcome(FitKey(0)) == "first"
    assert outputs.failure(FitKey(0)) is None
    assert outputs.get(FitKey(1, "no-bc")) is None
    assert outputs.outcome(FitKey(1, "no-bc")) is outputs.failure(FitKey(1, "no-bc")) is lost
    assert list(outputs.failures()) == [(FitKey(1, "no-bc"), lost)]
    assert outputs.get(FitKey(7)) is None
    for key in (FitKey(1, "no-bc"), FitKey(7)):
        with pytest.raises(KeyError):
            outputs[key]


def test_a_copy_grows_on_its_own():
    outputs = Outputs({FitKey(0): 1})
    copy = outputs.copy()
    copy.add(FitKey(1), 2)
    assert copy[FitKey(1)] == 2
    assert outputs.get(FitKey(1)) is None
