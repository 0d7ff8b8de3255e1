"""How fast look-ups are answered, beside servers that do less or the same in other ways.

    python benchmarks/serving.py [--rows 1000000] [--seconds 4] [--rounds 3]
        [--sections core open app json neighbour service feast] [--feast PYTHON]

Requests are for version 0 (256 dimensions) of a table of version 1 (512). A contract pins version
0, so the service keeps a view: the table converted ahead. `product` is the app without views.
`wrk` makes the load (Debian's package), so that the client is not what is measured; it shares the
cores with the server.
Two servers are compared in turns, and the ratio is the median over the rounds.

    core       the look-up in this process, without HTTP, with and without views
    open       opening a prepared copy of ten times as many rows of 16 dimensions
    app        the ASGI app on uvicorn, with and without views, beside a bare Starlette that answers
               the same bytes
    json       100 ids in JSON, beside a Starlette that looks up the same and encodes with `json`
    neighbour  the app again, while another process keeps one core busy
    service    Ray Serve with HAProxy, beside a bare deployment that answers the same bytes
    feast      the app, beside Feast's feature server with its store in SQLite. Feast holds the
               vectors of version 0 of 20,000 rows, so it converts nothing. `--feast` names the
               Python of an environment with `feast`; without it, the section is left out.
"""

import argparse
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from _machine import header, machine
from _servers import ENTITY, SPACE, listening, of_kind
from _wrk import Load, Side, compare, measure, print_header, print_row, warm

from backstay.compat.maps import BackwardMap
from backstay.registry import contracts
from backstay.registry.store import Registry
from backstay.serving import wire
from backstay.serving.lookup import Lookup

DIMS = (256, 512)
READER = contracts.Contract(
    name="bench", n=0, state="active", contact="bench@example.com", version=0, entity=ENTITY,
    metric=None, k=None, baseline=None, tolerance=0.0, policy="warn", model=None, table=None,
    who="", when="",
)  # fmt: skip
FEAST_ROWS = 20_000
PATH = f"/v1/spaces/{SPACE}/{ENTITY}"
SECTIONS = ["core", "open", "app", "json", "neighbour", "service", "feast"]
CONNECTIONS = (1, 8)


def one_id(rows: int) -> Load:
    """One id, in JSON."""
    ids = np.random.default_rng(1).integers(0, rows, 20_000)
    return Load("1 id, JSON", "GET", [f"{PATH}/{id_}?version=0" for id_ in ids])


def many_ids(count: int, rows: int, accept: wire.MediaType) -> Load:
    """Many ids in one request."""
    rng = np.random.default_rng(count)
    bodies = [
        orjson.dumps({"ids": rng.integers(0, rows, count).tolist(), "version": 0}).decode()
        for _ in range(400)
    ]
    name = "JSON" if accept == wire.JSON else "float32"
    return Load(f"{count} ids, {name}", f"{PATH}/lookup", bodies, accept)


def publish(root: Path, *, rows: int) -> None:
    """Two versions of a table of random vectors; version 0 has only a few rows."""
    rng = np.random.default_rng(0)
    space = Registry(root).space(SPACE)
    for k, dim in enumerate(DIMS):
        draft = space.draft(k, run_id=f"run-{k}")
        count = rows if k else 1000
        values = rng.standard_normal((count, dim), np.float32)
        draft.write_table(ENTITY, [(pa.array(rng.permutation(count)), values)])
        if k:
            matrix = rng.standard_normal((DIMS[0], dim), np.float32) / np.float32(dim**0.5)
            draft.write_backward(BackwardMap(SPACE, k, k - 1, matrix))
        draft.publish(
            parent=k - 1 if k else None,
            method="bc-aligner",
            config={},
            dataset_fingerprint="random",
        )
    contracts.write(space, READER, {})


def core(root: Path, cache: Path, rows: int) -> None:
    """Time `Lookup.vectors` in this process."""
    for name, most in (("view", None), ("product", 0)):
        rng = np.random.default_rng(2)
        with Lookup(str(root), cache=cache, views_max_bytes=most) as lookup:
            lookup.wait(views=True)
            _time(lookup, name, rng, rows)


def _time(lookup: Lookup, name: str, rng: np.random.Generator, rows: int) -> None:
    for count, calls in ((1, 20_000), (1000, 1000)):
        asked = [rng.integers(0, rows, count).tolist() for _ in range(calls)]
        micros = []
        for ids in asked:
            start = time.perf_counter()
            lookup.vectors(SPACE, ENTITY, ids, version=0)
            micros.append((time.perf_counter() - start) * 1e6)
        p50, p99 = np.percentile(micros[calls // 10 :], [50, 99])
        print(f"core, {name}, {count} rows: p50 {p50:.0f} µs, p99 {p99:.0f} µs", flush=True)


def opening(scratch: Path, rows: int) -> None:
    """Time how long a restart needs for a table that was copied before."""
    root, cache = scratch / "wide", scratch / "wide-cache"
    draft = Registry(root).space(SPACE).draft(0, run_id="run")
    rng = np.random.default_rng(3)
    part = 1_000_000

    def parts() -> Iterator[tuple[pa.Array, npt.NDArray[np.float32]]]:
        for start in range(0, rows, part):
            count = min(part, rows - start)
            yield pa.array(np.arange(start, start + count)), rng.random((count, 16), np.float32)

    draft.write_table(ENTITY, parts())
    draft.publish(parent=None, method="no-bc", config={}, dataset_fingerprint="random")
    Lookup(str(root), cache=cache).close()  # copies
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        with Lookup(str(root), cache=cache) as lookup:
            lookup.vectors(SPACE, ENTITY, [rows // 2])
        seconds.append(time.perf_counter() - start)
    print(f"opening {rows} prepared rows, first answer: {np.median(seconds):.3f} s", flush=True)
    shutil.rmtree(root)
    shutil.rmtree(cache)


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy from another process."""
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    time.sleep(1)
    try:
        yield
    finally:
        process.kill()
        process.join()


def _spin() -> None:
    while True:
        pass


class Bench:
    """One run: its options and folders."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options = options
        self.scratch = scratch
        self.root, self.cache = scratch / "registry", scratch / "cache"
        self.body = scratch / "body"  # what a bare server answers
        self.one = one_id(options.rows)
        self.hundred = many_ids(100, options.rows, wire.JSON)
        self.thousand = many_ids(1000, options.rows, wire.BINARY)

    def command(self, kind: str) -> list[str]:
        """The command of one server."""
        return of_kind(kind, self.root, self.cache, self.body)

    def compare(self, ours: Side, *rivals: Side) -> None:
        """Compare servers with few and with more connections."""
        for connections in CONNECTIONS:
            compare(
                ours, *rivals, connections=connections, rounds=self.options.rounds,
                seconds=self.options.seconds, scratch=self.scratch,
            )  # fmt: skip

    def beside(self, load: Load, *rivals: str) -> None:
        """Compare the app with rivals; a bare one answers with what the app answered last."""
        with ExitStack() as stack:
            ours = Side("app", stack.enter_context(listening(self.command("app"))), load)
            self.body.write_bytes(warm(ours))
            urls = [(name, stack.enter_context(listening(self.command(name)))) for name in rivals]
            self.compare(ours, *(Side(name, url, load) for name, url in urls))

    def neighbour(self) -> None:
        """Measure the app while another process keeps one core busy."""
        with busy_core(), listening(self.command("app")) as url:
            for load in (self.one, self.hundred, self.thousand):
                side = Side("app", url, load._replace(name=f"{load.name}, a core busy"))
                warm(side)
                self.compare(side)

    def service(self, load: Load) -> None:
        """Measure one service after the other: two need more cores than there are."""
        found = {}
        for kind in ("service", "constant"):
            with listening(self.command(kind)) as url:
                time.sleep(5)  # HAProxy reloads once more, and drops connections
                side = Side(kind, url, load)
                said = warm(side)
                if kind == "service":
                    self.body.write_bytes(said)
                found[kind] = [
                    measure(side, connections=8, seconds=self.options.seconds, scratch=self.scratch)
                    for _ in range(self.options.rounds)
                ]
            print_row(side, 8, found[kind], found["service"])

    def feast(self) -> None:
        """Compare the app with Feast, which takes other requests for as many ids."""
        repository, script = self.scratch / "feast", Path(__file__).with_name("_feast.py")
        python = [str(self.options.feast), str(script)]
        fill = [*python, "fill", str(repository), str(FEAST_ROWS), str(DIMS[0])]
        subprocess.run(fill, check=True, stdout=subprocess.DEVNULL)
        for load, count in ((self.one, 1), (self.hundred, 100)):
            rng = np.random.default_rng(count)
            asked = [rng.integers(0, FEAST_ROWS, count).tolist() for _ in range(400)]
            bodies = [
                orjson.dumps({"features": ["vectors:embedding"], "entities": {"item": ids}})
                for ids in asked
            ]
            theirs = Load(load.name, "/get-online-features", [body.decode() for body in bodies])
            with (
                listening(self.command("app")) as url,
                listening([*python, "serve", str(repository)]) as rival,
            ):
                sides = Side("app", url, load), Side("Feast", rival, theirs)
                for side in sides:
                    warm(side)
                self.compare(*sides)

    def run(self, sections: list[str]) -> None:
        """Measure the chosen sections."""
        publish(self.root, rows=self.options.rows)
        with Lookup(str(self.root), cache=self.cache) as lookup:
            start = time.perf_counter()
            lookup.wait(views=True)
            print(f"converting ahead: {time.perf_counter() - start:.1f} s", flush=True)
        if "core" in sections:
            core(self.root, self.cache, self.options.rows)
        if "open" in sections:
            opening(self.scratch, self.options.rows * 10)
        print_header()
        if "app" in sections:
            self.beside(self.one, "bare", "product")
            self.beside(self.thousand, "bare", "product")
        if "json" in sections:
            self.beside(self.hundred, "stdlib", "bare")
        if "neighbour" in sections:
            self.neighbour()
        if "service" in sections:
            os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
            self.service(self.one)
            self.service(self.thousand)
        if "feast" in sections and self.options.feast:
            self.feast()


def main() -> None:
    """Measure the chosen sections."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--feast", type=Path, help="Python of an environment with feast")
    options = parser.parse_args()
    packages = ["ray", "fastapi", "starlette", "uvicorn", "uvloop", "numpy", "pyarrow", "orjson"]
    print(header(machine(*packages)))
    print(f"{options.rows} rows, version 0 of {DIMS[0]} from version 1 of {DIMS[1]} dimensions\n")
    with tempfile.TemporaryDirectory() as folder:
        Bench(options, Path(folder)).run(options.sections)


if __name__ == "__main__":
    main()
