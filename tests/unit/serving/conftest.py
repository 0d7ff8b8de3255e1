"""One registry of three versions, its look-up, and the service over it."""

import socket
import threading
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from tests.unit.serving import worlds

from backstay.serving.app import build_app
from backstay.serving.lookup import Lookup


@contextmanager
def listening(app):
    """Serve an ASGI application on a free port; the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("registry"))


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
