"""Retiring a version keeps every entity and id readable."""

import numpy as np
import pyarrow as pa
import pytest

from backstay.compat.maps import BackwardMap
from backstay.errors import NotFoundError, RegistryError
from backstay.registry import contracts
from backstay.registry.aliases import promote, rollback
from backstay.registry.retirement import losses, retire
from tests.support.builders import contract, fill, publish


def _publish(space, tables, *, mapped=True):
    """The next version, 3 dimensions wide, with these tables: entity -> ids."""
    version = len(space.versions())
    draft = space.draft(version, run_id=f"v{version}")
    for entity, ids in tables.items():
        values = np.ones((len(ids), 3), np.float32)
        draft.write_table(entity, [(pa.array(ids), values)], part_rows=3)
    if version and mapped:
        eye = np.eye(3, dtype=np.float32)
        draft.write_backward(BackwardMap(space.name, version, version - 1, eye))
    publish(draft)


def test_a_version_whose_ids_are_all_in_a_newer_table_is_retired(space):
    _publish(space, {"item": [1, 2, 3, 4, 5], "user": ["a", "b"]})
    _publish(space, {"item": [5, 4, 3, 2, 1, 0], "user": ["b", "c", "a"]})
    assert losses(space, 0) == []
    assert retire(space, 0).freed > 0


def test_the_only_table_of_an_entity_is_not_removed(space):
    _publish(space, {"item": [1], "shop": [7, 8]})
    _publish(space, {"item": [1]})
    with pytest.raises(RegistryError, match=r"shop: no newer version has a table of it.*--force"):
        retire(space, 0)
    assert space.table(0, "shop").read()[0].to_pylist() == [7, 8]
    retire(space, 0, force=True)
    with pytest.raises(NotFoundError):
        space.table(0, "shop")


def test_ids_that_would_be_lost_are_counted_and_named(space):
    _publish(space, {"item": [f"i{n}" for n in range(20)]})
    _publish(space, {"item": [f"i{n}" for n in range(5, 30)]})
    with pytest.raises(
        RegistryError, match=r"5 of its 20 ids, such as 'i0', 'i1', 'i2', are not in version 1"
    ):
        retire(space, 0)


def test_the_newest_table_decides_as_it_does_for_the_service(space):
    _publish(space, {"item": [1, 2]})
    _publish(space, {"item": [1, 2]})
    _publish(space, {"item": [1]})
    assert losses(space, 0) == ["item: 1 of its 2 ids, such as 2, are not in version 2"]
    retire(space, 2 - 1, force=True)
    assert losses(space, 0) == ["item: 1 of its 2 ids, such as 2, are not in version 2"]


def test_ids_of_another_type_and_broken_chains_are_losses(space):
    _publish(space, {"item": [1, 2]})
    _publish(space, {"item": ["1", "2"]})
    assert losses(space, 0) == ["item: its ids are int64, those of version 1 string"]
    _publish(space, {"item": ["1", "2"]}, mapped=False)
    (loss,) = losses(space, 1)
    assert "can't be read out of version 2" in loss


@pytest.mark.parametrize("force", [False, True])
def test_what_an_alias_or_consumer_would_lose_is_never_retired(space, force):
    _publish(space, {"item": [1, 2]})
    _publish(space, {"item": [1, 2, 3]})
    _publish(space, {"item": [1]})
    promote(space, 0, alias="stable")
    for name in ("ads", "old"):
        contracts.write(space, contract(name, version=1), {})
    contracts.remove(space, "old")
    with pytest.raises(
        RegistryError,
        match=r"read by alias stable \(version 0\), consumer ads \(version 1\), .*2 of its 3 ids",
    ):
        retire(space, 1, force=force)
    assert space.retired(1) is None


@pytest.mark.parametrize("alias", ["prod", "stable"])
def test_the_tables_behind_an_alias_are_never_retired(space, alias):
    fill(space, 3, 4, 5)
    promote(space, 0, alias=alias)
    with pytest.raises(RegistryError, match=rf"alias {alias} points .* tables of .*Move the"):
        retire(space, 0, force=True)
    promote(space, 1, alias=alias)
    promote(space, 2, alias=alias)
    assert retire(space, 0).freed > 0


def test_what_a_rollback_would_read_is_retired_only_by_force(space, caplog):
    fill(space, 3, 4, 5)
    for version in (0, 1, 2):
        promote(space, version)
    with pytest.raises(
        RegistryError,
        match=r"rollback movies --alias prod` leads to version 1, .* of version 1\. .*--force",
    ):
        retire(space, 1)
    assert space.retired(1) is None
    retire(space, 0)
    assert "a rollback of prod to version 0 will not find the tables of version 0" in caplog.text
    assert retire(space, 1, force=True).freed > 0


def test_a_table_that_is_served_below_prod_after_a_rollback_is_not_retired(space):
    """Version 2 has no shops: at prod 2, they are read out of version 1, though 3 has them too."""
    _publish(space, {"item": [1]})
    _publish(space, {"item": [1], "shop": [7]})
    _publish(space, {"item": [1]})
    _publish(space, {"item": [1], "shop": [7]})
    for version in (2, 3):
        promote(space, version)
    with pytest.raises(RegistryError, match=r"leads to version 2, .* of shop in version 1"):
        retire(space, 1)
    rollback(space)
    for force in (False, True):
        with pytest.raises(
            RegistryError, match=r"prod points to version 2, .* the table of shop in version"
        ):
            retire(space, 1, force=force)
    promote(space, 3)
    promote(space, 2, alias="stable")
    assert losses(space, 1) == []
    retire(space, 1, force=True)


def test_a_retirement_that_was_killed_half_way_is_repeated(space):
    fill(space, 3, 4)
    retire(space, 0)
    space.files.write(space.path(0, "tables/item/part-00000.parquet"), b"left")
    retire(space, 0)
    assert "tables/item/part-00000.parquet" not in space.files.find(space.path(0))


def test_a_repeated_retirement_reports_only_what_it_removed(space):
    fill(space, 4, 4)
    first = retire(space, 0, reason="old")
    assert first.freed > 0
    assert space.retired(0).freed == first.freed
    again = retire(space, 0)
    assert (again.reason, again.removed, again.freed) == ("old", (), 0)


def test_what_a_killed_retirement_left_is_removed_by_the_next(space):
    fill(space, 4, 4)
    whole = space.files.find(space.path(0))
    data = space.files.read(space.path(0, "model.safetensors"))
    retire(space, 0)
    space.files.write(space.path(0, "model.safetensors"), data)  # as if killed before it
    again = retire(space, 0)
    assert again.removed == ("model.safetensors",)
    assert again.freed == whole["model.safetensors"]
    assert not space.files.exists(space.path(0, "model.safetensors"))


def test_nothing_is_removed_unless_it_is_confirmed(space):
    fill(space, 4, 4)
    before = space.files.find(space.path(0))

    def refuse(size):
        assert 0 < size < sum(before.values())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retire(space, 0, confirm=refuse)
    assert space.files.find(space.path(0)) == before
