"""A registry on each kind of file system."""

from uuid import uuid4

import pytest

from backstay.registry.store import Registry


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
