"""One registry of three versions, its look-up, and the service over it."""

import httpx
import pytest

from backstay.serving.app import build_app
from backstay.serving.lookup import Lookup
from tests.support import served
from tests.support.served import listening


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    return served.build(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="session")
def lookup(registry, tmp_path_factory):
    with Lookup(registry, cache=tmp_path_factory.mktemp("cache")) as opened:
        yield opened


@pytest.fixture(scope="session")
def url(lookup):
    with listening(build_app(lookup, max_ids=100, replica="one")) as url:
        yield url


@pytest.fixture(scope="session")
def http(url):
    with httpx.Client(base_url=url) as client:
        yield client
