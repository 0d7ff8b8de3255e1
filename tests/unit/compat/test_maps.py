import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.compat.maps import BackwardMap, Vectors, compose, identity
from backstay.errors import MapMismatchError


def random_map(rng, source, target, *, rows, columns, space="movies"):
    matrix = (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
    return BackwardMap(space, source, target, matrix)


@st.composite
def chains(draw):
    """B_1 … B_k of a space, with vectors of version k."""
    dims = draw(st.lists(st.integers(1, 9), min_size=4, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    maps = [
        random_map(rng, k, k - 1, rows=dims[k - 1], columns=dims[k]) for k in range(1, len(dims))
    ]
    values = rng.standard_normal((5, dims[-1])).astype(np.float32)
    return maps, Vectors("movies", len(dims) - 1, values)


@given(chains(), st.data())
@settings(max_examples=50, deadline=None)
def test_composition_is_associative(chain, data):
    maps, _ = chain
    cut = data.draw(st.integers(1, len(maps) - 1))
    whole = compose(maps)
    halves = compose([compose(maps[:cut]), compose(maps[cut:])])
    assert (halves.source, halves.target) == (whole.source, whole.target) == (len(maps), 0)
    np.testing.assert_allclose(halves.matrix, whole.matrix, atol=1e-5)


@given(chains())
@settings(max_examples=50, deadline=None)
def test_a_chain_does_what_its_maps_do_one_by_one(chain):
    maps, vectors = chain
    stepwise = vectors
    for map_ in reversed(maps):
        stepwise = map_.convert(stepwise)
    at_once = compose(maps).convert(vectors)
    assert (at_once.space, at_once.version) == (stepwise.space, stepwise.version) == ("movies", 0)
    np.testing.assert_allclose(at_once.values, stepwise.values, atol=1e-5)


def test_a_chain_is_the_product_entry_by_entry():
    rng = np.random.default_rng(1)
    dims = (2, 5, 3, 4)
    maps = [random_map(rng, k, k - 1, rows=dims[k - 1], columns=dims[k]) for k in (1, 2, 3)]
    slow = maps[0].matrix.tolist()
    for map_ in maps[1:]:
        newer = map_.matrix.tolist()
        slow = [
            [
                sum(row[inner] * newer[inner][column] for inner in range(len(newer)))
                for column in range(len(newer[0]))
            ]
            for row in slow
        ]
    found = compose(maps)
    assert (found.source, found.target) == (3, 0)
    assert found.matrix.shape == (2, 4)
    assert found.matrix.dtype == np.float32
    np.testing.assert_allclose(found.matrix, slow, rtol=1e-6)


def test_a_chain_is_rounded_once():
    # a² - (1 + 2⁻¹¹) is 2⁻²⁴; a float32 has no room for that last bit of a², and would say 0.
    a = 1 + 2.0**-12
    maps = [
        BackwardMap("s", n, n - 1, np.array(matrix, np.float32))
        for n, matrix in enumerate(([[a, 1]], [[a, 0], [0, 1 + 2.0**-11]], [[1], [-1]]), 1)
    ]
    assert compose(maps).matrix.tolist() == [[2.0**-24]]


def test_a_conversion_is_a_dot_product_per_row_and_dimension():
    rng = np.random.default_rng(0)
    map_ = random_map(rng, 3, 1, rows=2, columns=4)
    values = rng.standard_normal((3, 4)).astype(np.float32)
    slow = [[sum(map_.matrix[d, e] * row[e] for e in range(4)) for d in range(2)] for row in values]
    found = map_.convert(Vectors("movies", 3, values))
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, slow, rtol=1e-5)


def test_a_rotation_is_taken_back():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0].astype(np.float32)
    old = rng.standard_normal((20, 8)).astype(np.float32)
    new = Vectors("movies", 1, old @ rotation)
    found = BackwardMap("movies", 1, 0, rotation).convert(new)
    np.testing.assert_allclose(found.values, old, atol=1e-5)


def test_the_identity_leaves_vectors_and_maps_alone():
    rng = np.random.default_rng(0)
    vectors = Vectors("movies", 2, rng.standard_normal((3, 4)).astype(np.float32))
    here = identity("movies", 2, 4)
    assert here.convert(vectors) is vectors
    map_ = random_map(rng, 2, 1, rows=3, columns=4)
    for chain in (compose([map_, here]), compose([identity("movies", 1, 3), map_])):
        assert (chain.source, chain.target) == (2, 1)
        np.testing.assert_array_equal(chain.matrix, map_.matrix)


@pytest.mark.parametrize(
    ("space", "version", "dim"), [("books", 2, 4), ("movies", 1, 4), ("movies", 2, 5)]
)
def test_vectors_of_another_space_version_or_dimension_are_refused(space, version, dim):
    map_ = random_map(np.random.default_rng(0), 2, 1, rows=3, columns=4)
    vectors = Vectors(space, version, np.zeros((2, dim), np.float32))
    with pytest.raises(MapMismatchError, match=r"map movies 2→1 takes .*'movies', 2, 4.*found"):
        map_.convert(vectors)
    with pytest.raises(MapMismatchError, match="takes"):
        identity("movies", 2, 4).convert(vectors)


@pytest.mark.parametrize(
    ("space", "source", "target", "rows"),
    [("books", 2, 1, 4), ("movies", 3, 2, 4), ("movies", 2, 1, 5), ("movies", 1, 0, 4)],
)
def test_maps_that_do_not_meet_are_not_composed(space, source, target, rows):
    rng = np.random.default_rng(0)
    older = random_map(rng, 1, 0, rows=3, columns=4)
    newer = random_map(rng, source, target, rows=rows, columns=6, space=space)
    with pytest.raises(MapMismatchError, match="must be followed by a map into"):
        compose([older, newer])


@pytest.mark.parametrize(("source", "target"), [(1, 2), (0, -1)])
def test_a_map_never_leads_to_a_newer_version(source, target):
    with pytest.raises(MapMismatchError, match="from a newer version to an older one"):
        BackwardMap("movies", source, target, np.eye(2, dtype=np.float32))


@pytest.mark.parametrize(
    "matrix",
    [np.ones(3), np.ones((2, 2, 2)), np.array([[np.nan]]), np.array([[np.inf, 1]])],
    ids=["flat", "cube", "nan", "infinite"],
)
def test_a_matrix_must_be_finite_and_two_dimensional(matrix):
    with pytest.raises(MapMismatchError, match="two-dimensional and finite"):
        BackwardMap("movies", 1, 0, matrix.astype(np.float32))


def test_vectors_come_in_rows():
    with pytest.raises(MapMismatchError, match=r"one row per entity; found shape \(4,\)"):
        Vectors("movies", 1, np.zeros(4, np.float32))
