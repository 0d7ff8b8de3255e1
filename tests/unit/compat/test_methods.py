import pytest

from backstay.compat.methods import METHODS, find_method
from backstay.errors import UsageError


def test_the_baselines_come_first_and_ours_last():
    assert list(METHODS) == [
        "fix-m0",
        "finetune",
        "no-bc",
        "posthoc-linear-single",
        "posthoc-linear-multi",
        "posthoc-ridge",
        "posthoc-procrustes",
        "posthoc-low-rank",
        "joint-identity",
        "joint-linear-single",
        "bc-aligner",
        "backstay",
    ]
    assert all(method.name == name for name, method in METHODS.items())


def named(question):
    return {name for name, method in METHODS.items() if question(method)}


def test_where_models_come_from():
    assert named(lambda m: m.model == "frozen") == {"fix-m0"}
    assert named(lambda m: m.model == "continued") == {"finetune"}
    assert named(lambda m: m.model == "extended") == {"backstay"}


def test_a_map_is_fitted_jointly_or_afterwards_or_is_there_already():
    posthoc = {name for name in METHODS if name.startswith("posthoc-")}
    joint = {"joint-identity", "joint-linear-single", "bc-aligner"}
    assert named(lambda m: m.posthoc) == posthoc
    assert named(lambda m: m.joint) == joint
    assert named(lambda m: m.map == "none") == {"no-bc"}
    assert named(lambda m: m.map == "inverse") == {"backstay"}
    assert named(lambda m: m.map == "identity") == {"fix-m0", "finetune", "joint-identity"}


def test_what_a_fit_reads_of_the_version_before():
    closed = {"posthoc-ridge", "posthoc-procrustes", "posthoc-low-rank"}
    aligned = {
        *("posthoc-linear-single", "posthoc-linear-multi"),
        *("joint-identity", "joint-linear-single", "bc-aligner"),
    }
    assert named(lambda m: m.closed_form) == closed
    assert named(lambda m: m.aligns) == aligned
    assert named(lambda m: m.needs_teacher) == aligned | closed | {"backstay"}


def test_a_version_is_published_with_one_matrix_or_none():
    assert named(lambda m: not m.publishable) == {"posthoc-ridge", "posthoc-low-rank"}


@pytest.mark.parametrize(
    ("single", "multi"),
    [("posthoc-linear-single", "posthoc-linear-multi"), ("joint-linear-single", "bc-aligner")],
)
def test_a_linear_map_may_be_held_to_one_version_or_to_all(single, multi):
    assert (find_method(single).alignment, find_method(multi).alignment) == ("single", "multi")


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'magic'; expected one of .*bc-aligner"):
        find_method("magic")
