"""The servers of benchmarks/serving.py, each in a process of its own.

python benchmarks/_servers.py KIND REGISTRY CACHE BODY PORT
"""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import ray
import uvicorn
from ray import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from backstay.serving import wire
from backstay.serving.app import build_app
from backstay.serving.lookup import Lookup
from backstay.serving.server import run

SPACE, ENTITY = "bench", "item"


@contextmanager
def listening(command: list[str]) -> Iterator[str]:
    """Run a server that takes its port as last argument; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while not _answers(url):
            if process.poll() is not None:
                raise RuntimeError(f"the server {command} has stopped")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def of_kind(kind: str, root: Path, cache: Path, body: Path) -> list[str]:
    """The command of one of the servers below."""
    return [sys.executable, __file__, kind, str(root), str(cache), str(body)]


def app(root: str, cache: str, _body: str) -> ASGIApp:
    """Our app, with views."""
    lookup = Lookup(root, cache=cache)
    lookup.wait(views=True)
    return build_app(lookup)


def product(root: str, cache: str, _body: str) -> ASGIApp:
    """Our app without views: it converts for each request."""
    return build_app(Lookup(root, cache=cache, views_max_bytes=0))


def bare(_root: str, _cache: str, body: str) -> ASGIApp:
    """Starlette that answers each request with the same bytes."""
    content = Path(body).read_bytes()

    async def echo(request: Request) -> Response:
        await request.body()
        return Response(content, media_type=wire.BINARY)

    return Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])


def stdlib(root: str, cache: str, _body: str) -> ASGIApp:
    """Starlette with our look-up and the standard library's json."""
    lookup = Lookup(root, cache=cache)
    lookup.wait(views=True)

    async def look_up(request: Request) -> Response:
        asked = json.loads(await request.body())
        found = lookup.vectors(SPACE, ENTITY, asked["ids"], version=asked["version"])
        answer = {"ids": found.found_ids.to_pylist(), "embeddings": found.values.tolist()}
        return Response(json.dumps(answer), media_type=wire.JSON)

    return Starlette(routes=[Route("/{path:path}", look_up, methods=["POST"])])


def service(root: str, cache: str, _body: str, *, port: int) -> None:
    """The whole service."""
    run(Path(root), port=port, cache=cache)


def constant(_root: str, _cache: str, body: str, *, port: int) -> None:
    """A deployment that answers with the same bytes, on a Ray of the same size."""
    content = np.frombuffer(Path(body).read_bytes(), np.uint8).tobytes()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    logging_config = {"encoding": "JSON", "enable_access_log": False}
    options = {"host": "127.0.0.1", "port": port, "request_timeout_s": 30}
    serve.start(proxy_location="HeadOnly", http_options=options, logging_config=logging_config)

    class Constant:
        async def __call__(self, request: Request) -> Response:
            await request.body()
            return Response(content, media_type=wire.BINARY)

    deployment = serve.deployment(max_ongoing_requests=32, logging_config=logging_config)(Constant)
    serve.run(deployment.bind(), route_prefix="/")
    threading.Event().wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code < 500  # noqa: PLR2004
    except httpx.TransportError:
        return False


def main() -> None:
    """Run one server until SIGTERM."""
    kind, *arguments, port = sys.argv[1:]
    if kind == "service":
        service(*arguments, port=int(port))
    elif kind == "constant":
        constant(*arguments, port=int(port))
    else:
        build = {"app": app, "product": product, "bare": bare, "stdlib": stdlib}[kind]
        uvicorn.run(
            build(*arguments), port=int(port), log_level="critical", access_log=False,
            loop="uvloop", http="httptools", lifespan="off",
        )  # fmt: skip


if __name__ == "__main__":
    main()
