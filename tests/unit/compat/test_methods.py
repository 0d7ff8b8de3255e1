import pytest

from backstay.compat.methods import METHODS, find_method
from backstay.errors import UsageError


@pytest.mark.parametrize("name", ["fix-m0", "no-bc", "posthoc-linear-single", "bc-aligner"])
def test_a_method_is_found_by_its_name(name):
    assert find_method(name).name == name


def test_only_a_model_that_learns_is_aligned_jointly():
    assert all(method.model != "frozen" for method in METHODS.values() if method.joint)


def test_a_map_is_fitted_jointly_or_afterwards():
    assert find_method("bc-aligner").joint
    assert not find_method("bc-aligner").posthoc
    assert find_method("posthoc-linear-single").posthoc
    assert not find_method("no-bc").posthoc


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'magic'; expected one of .*bc-aligner"):
        find_method("magic")
