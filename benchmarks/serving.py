"""Requests a second and latency of the look-up service, beside a server that looks nothing up.

    python benchmarks/serving.py [--rows 100000] [--seconds 3] [--connections 1 8]
        [--servers app echo serve haproxy]

Every request is for version 0 of a space whose table is of version 1 (320 to 256 dimensions). The
rival, "echo", is a bare Starlette application under uvicorn that reads the request and answers with
as many bytes, the same each time: what HTTP itself costs here. It learns how many from "app", so
measure both. Load comes from this process over connections that stay open, each sending its next
request when the last is answered; it shares the machine's cores with the server.
"""

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import orjson
import pyarrow as pa
import uvicorn
from _machine import header, machine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backstay.compat.maps import BackwardMap
from backstay.registry.store import Registry
from backstay.serving import wire
from backstay.serving.app import build_app
from backstay.serving.lookup import Lookup
from backstay.serving.server import run

SPACE, ENTITY = "bench", "item"
DIMS = (256, 320)
SERVERS = ["app", "echo", "serve", "haproxy"]
PATH = f"/v1/spaces/{SPACE}/{ENTITY}"


def publish(root: Path, *, rows: int) -> None:
    """Two versions of a table of random vectors."""
    rng = np.random.default_rng(0)
    space = Registry(root).space(SPACE)
    for k, dim in enumerate(DIMS):
        draft = space.draft(k, run_id=f"run-{k}")
        values = rng.standard_normal((rows, dim), np.float32)
        draft.write_table(ENTITY, [(pa.array(rng.permutation(rows)), values)])
        if k:
            matrix = rng.standard_normal((DIMS[0], dim), np.float32)
            draft.write_backward(BackwardMap(SPACE, k, k - 1, matrix))
        draft.publish(
            parent=k - 1 if k else None,
            method="bc-aligner",
            config={},
            dataset_fingerprint="random",
        )


def requests(rows: int) -> dict[str, bytes]:
    """What is measured, as the bytes that go over the wire."""
    rng = np.random.default_rng(1)

    def many(count: int, accept: str) -> bytes:
        body = orjson.dumps({"ids": rng.integers(0, rows, count).tolist(), "version": 0})
        head = (
            f"POST {PATH}/lookup HTTP/1.1\r\nHost: localhost\r\nContent-Type: {wire.JSON}\r\n"
            f"Accept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    one = f"GET {PATH}/{int(rng.integers(rows))}?version=0 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    return {
        "1 id, JSON": one.encode(),
        "100 ids, JSON": many(100, wire.JSON),
        "1000 ids, Arrow": many(1000, wire.ARROW),
        "1000 ids, binary": many(1000, wire.BINARY),
    }


async def load(
    port: int, request: bytes, *, connections: int, seconds: float
) -> tuple[list[float], int]:
    """Latencies in seconds, and the size of an answer's body in bytes."""
    latencies: list[float] = []
    size = 0

    async def ask(until: float) -> None:
        nonlocal size
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
        while (start := time.perf_counter()) < until:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(head.decode())
            size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            latencies.append(time.perf_counter() - start)
        writer.close()

    await ask(time.perf_counter() + seconds / 5)  # warm-up
    latencies.clear()
    until = time.perf_counter() + seconds
    await asyncio.gather(*(ask(until) for _ in range(connections)))
    return latencies, size


@contextmanager
def server(*arguments: str, **environment: str) -> Iterator[int]:
    """This script as a server, in a process of its own; the port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", *arguments, str(port)],
        env={**os.environ, **environment},
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/healthz").is_success:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def serve(kind: str, root: str, scratch: str, *, port: int) -> None:
    """Run one of the servers until SIGTERM; the echo answers with the file `scratch`."""
    cache = str(Path(scratch) / "cache")
    if kind == "serve":
        run(Path(root), port=port, cache=cache)
        return
    app: Starlette
    if kind == "app":
        app = build_app(Lookup(root, cache=cache))
    else:
        body = Path(scratch).read_bytes()

        async def echo(request: Request) -> Response:
            await request.body()
            return Response(body, media_type=wire.BINARY)

        app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    uvicorn.run(app, port=port, log_level="critical", access_log=False)


def measure(name: str, port: int, request: bytes, options: argparse.Namespace) -> int:
    """Print one row for each number of connections; the size of an answer."""
    size = 0
    for connections in options.connections:
        latencies, size = asyncio.run(
            load(port, request, connections=connections, seconds=options.seconds)
        )
        p50, p95 = np.percentile(latencies, [50, 95]) * 1000
        rate = len(latencies) / options.seconds
        print(f"| {name} | {connections} | {rate:.0f} | {p50:.2f} | {p95:.2f} |", flush=True)
    return size


def main() -> None:
    """Measure every server with every request."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--servers", nargs="+", default=["app", "echo", "serve"], choices=SERVERS)
    options = parser.parse_args()
    packages = ["ray", "fastapi", "starlette", "uvicorn", "numpy", "pyarrow", "orjson"]
    print(header(machine(*packages)))
    print(f"{options.rows} rows, version 0 of {DIMS[0]} from version 1 of {DIMS[1]} dimensions\n")
    print("| server: request | connections | requests/s | p50 ms | p95 ms |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        root = str(Path(scratch) / "registry")
        publish(Path(root), rows=options.rows)
        wanted = requests(options.rows)
        if "app" in options.servers:
            with server("app", root, scratch) as port:
                for name, request in wanted.items():
                    size = measure(f"app on uvicorn: {name}", port, request, options)
                    (Path(scratch) / name).write_bytes(bytes(size))
        if "echo" in options.servers:
            for name, request in wanted.items():
                with server("echo", root, str(Path(scratch) / name)) as port:
                    measure(f"echo: {name}", port, request, options)
        for kind in {"serve", "haproxy"} & set(options.servers):
            haproxy = str(int(kind == "haproxy"))
            with server("serve", root, scratch, RAY_SERVE_ENABLE_HA_PROXY=haproxy) as port:
                time.sleep(5 * (kind == "haproxy"))  # it reloads once more, and drops connections
                for name, request in wanted.items():
                    measure(f"{kind}: {name}", port, request, options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:5], port=int(sys.argv[5]))
    else:
        main()
