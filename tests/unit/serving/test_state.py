import pytest

from backstay.errors import MissingMapError, NotFoundError, NotReadyError
from backstay.registry.manifest import EntityEntry
from backstay.serving.state import SpaceState, VersionState


def version(k, *entities, has_map=True, retired=False):
    return VersionState(
        version=k,
        dim=2,
        method="bc-aligner",
        created="2026-01-01T00:00:00Z",
        manifest_sha256=f"{k}" * 64,
        build=f"{k}" * 16,
        entities={name: EntityEntry(rows=1, id_type="int64") for name in entities or ("user",)},
        has_map=bool(k) and has_map,
        retired=retired,
    )


def space(*versions, prod=None, faults=None):
    return SpaceState(
        space="movies",
        versions={each.version: each for each in versions},
        faults=faults or {},
        aliases={} if prod is None else {"prod": prod},
    )


FIVE = [version(k) for k in range(5)]


@pytest.mark.parametrize(
    ("state", "target", "expected"),
    [
        (space(*FIVE), 0, [4, 3, 2, 1, 0]),
        (space(*FIVE, prod=2), 0, [2, 1, 0, 3, 4]),
        (space(*FIVE, prod=2), 2, [2, 3, 4]),
        (space(*FIVE, prod=2), 3, [3, 4]),
        (space(*FIVE, prod=2), 4, [4]),
        (space(*FIVE), 5, []),
        (space(version(0), version(1, has_map=False), version(2)), 0, [0]),
        (space(version(0), version(1, has_map=False), version(2)), 1, [2, 1]),
        (space(version(0, retired=True), version(1), version(2), prod=0), 0, [1, 2]),
        (space(version(0, retired=True), version(1, has_map=False)), 0, []),
        (space(version(0), version(2), faults={1: "damaged"}), 0, [0]),
        (space(version(0), version(1, "item"), version(2)), 0, [2, 0]),
    ],
)
def test_the_newest_table_up_to_the_one_in_force_answers_and_then_the_oldest_newer_one(
    state, target, expected
):
    assert state.sources("user", target) == expected


def test_every_entity_has_its_own_table_in_force():
    state = space(version(0, "user", "item"), version(1, "item"), version(2, "user", "tag"), prod=1)
    assert state.tables() == {"item": 1, "user": 0}


@pytest.mark.parametrize(
    ("state", "entity", "target", "error", "says"),
    [
        (space(*FIVE), "actor", 0, NotFoundError, "no entity 'actor'; it has 'user'"),
        (space(*FIVE), "user", 7, NotFoundError, "in versions 0 to 4; found 7"),
        (space(version(0, "item"), version(1)), "item", 1, NotFoundError, "versions 0; found 1"),
        (
            space(version(0, retired=True), version(1, has_map=False)),
            "user",
            0,
            MissingMapError,
            "version 1 has no backward map; versions 1 can",
        ),
        (space(version(0), faults={1: "damaged"}), "user", 1, NotReadyError, "version 1.*damaged"),
        (
            space(version(0, retired=True), version(2), faults={1: "damaged"}),
            "user",
            0,
            NotReadyError,
            "version 1 of space 'movies' can't be read: damaged",
        ),
    ],
)
def test_why_a_version_cannot_be_read(state, entity, target, error, says):
    assert state.sources(entity, target) == []
    with pytest.raises(error, match=says):
        raise state.why_unreadable(entity, target)


def test_a_number_of_any_length_is_no_error_of_the_service():
    with pytest.raises(NotFoundError, match="no alias"):
        space(*FIVE).resolve("9" * 10_000)


def test_a_consumer_whose_contract_cannot_be_read_is_not_given_another_version():
    state = SpaceState(space="movies", versions={0: version(0)}, broken_contracts={"ads": "no."})
    with pytest.raises(NotReadyError, match="contract of consumer 'ads'"):
        state.resolve(consumer="ads")
    assert state.resolve(consumer="other") == state.resolve("0", consumer="ads") == 0
