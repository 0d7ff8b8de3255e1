"""A registry on each kind of file system, and a small version to publish into it."""

from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest

from backstay.compat.maps import BackwardMap
from backstay.registry.store import Registry


def stage(draft, *, dim=4, previous_dim=None, rows=10, seed=0):
    """Stage a model, two tables, metrics and, from version 1 on, a map."""
    space, version = draft.space.name, draft.version
    rng = np.random.default_rng([version, seed])
    weights = {"attr.weight": rng.normal(size=(3, dim)).astype(np.float32)}
    draft.write_model({"layers": 2}, weights, {"genre": ("rock", "köln", "")})
    items = pa.array([f"i{n}" for n in range(rows)])
    draft.write_table(
        "item", [(items, rng.normal(size=(rows, dim)).astype(np.float32))], part_rows=4
    )
    users = pa.array(range(rows))
    draft.write_table("user", [(users, rng.normal(size=(rows, dim)).astype(np.float32))])
    if previous_dim:
        matrix = rng.normal(size=(previous_dim, dim)).astype(np.float32)
        draft.write_backward(BackwardMap(space, version, version - 1, matrix))
    draft.write_metrics({"recall50": 0.25})


def publish(draft, **options):
    """Publish with the arguments that a test doesn't care about filled in."""
    parent = draft.version - 1 if draft.version else None
    defaults = {"method": "bc-aligner", "config": {"weight": 16}, "dataset_fingerprint": "f00"}
    return draft.publish(**{"parent": parent, **defaults, **options})


def fill(space, *dims):
    """Publish a version of each dimension on top of what is there."""
    for dim in dims:
        versions = space.versions()
        previous_dim = space.manifest(versions[-1]).dim if versions else None
        draft = space.draft(len(versions), run_id=f"run-{len(versions)}")
        stage(draft, dim=dim, previous_dim=previous_dim)
        publish(draft)


@pytest.fixture(scope="session", name="stage")
def stage_fixture():
    return stage


@pytest.fixture(scope="session", name="publish")
def publish_fixture():
    return publish


@pytest.fixture(scope="session", name="fill")
def fill_fixture():
    return fill


@pytest.fixture(params=["folder", "file://", "memory://"])
def registry(request, tmp_path):
    if request.param == "memory://":
        uri = f"memory://{uuid4().hex}"
    elif request.param == "file://":
        uri = f"file://{tmp_path}/a b/registry"
    else:
        uri = tmp_path / "registry"
    yield Registry(uri)
    if request.param == "memory://":
        files = Registry(uri).files
        files.remove("")


@pytest.fixture
def space(registry):
    return registry.space("movies")


@pytest.fixture
def local_space(tmp_path):
    return Registry(tmp_path / "registry").space("movies")
