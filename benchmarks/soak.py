"""Whether the service answers rightly, and goes on, through one fault after the other.

    python benchmarks/soak.py [--seconds 600] [--rows 20000] [--dim 256] [--load 0.8] [--json FILE]

Runs `backstay serve` with two replicas on an S3 server. First it measures how many requests a
second the service answers to 16 connections that are never idle. Then it sends `--load` of that,
however long the answers take, and makes one fault after the other. Every answer is compared with
vectors that are computed from the published tables and maps in float64. Beside that, the real
client looks up 3,000 ids in six pages each time. The warm-up ends after a promotion there and back.

The load repeats what fails as the client does. "first" counts requests whose first attempt failed,
"failed" those that never succeeded. "recovered" counts the seconds from the fault (or from its end,
where it lasts) until nothing fails, both replicas answer and the change is taken up.

It exits with 1 if a bound does not hold. It needs `pip install moto[server] s3fs`, and the right to
mount a disk of its own for the fault "disk full" (root); without it, this fault is left out.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
import uvloop
from _machine import Machine, header, machine
from _soak_load import Load, Tally, paging, percentile
from _soak_service import (
    CONTROLLER,
    REPLICA,
    Memory,
    Processes,
    Service,
    fill,
    kill,
    s3_server,
    small_disk,
)
from _soak_world import SPACE, STABLE, Allowed, Mix, World, pin

from backstay.registry.aliases import promote, rollback
from backstay.registry.store import Registry

START = 5  # versions that are published before the service starts

# What has to hold.
MOST_FAILED = 0.001
RECOVERY_SECONDS = 30.0
MEMORY_SHARE = 0.1

_QUIET = 3.0  # seconds without a failure, after which it has recovered
_PATIENCE = 60.0  # seconds to wait for that
_SLOW = 1.0  # seconds after which an answer counts as slow, once a flood has ended
_LEAD = 2.0  # seconds after the first answer from a table in which older ones are allowed
_CONNECTIONS = 16
_FLOOD = 5  # times the load


class Phase(NamedTuple):
    """The time from one fault until the next one."""

    fault: str
    start: float  # time.monotonic()
    end: float
    recovered: float | None  # seconds
    memory: float  # MB of their own


@dataclass(frozen=True, kw_only=True)
class Row:
    """What happened from one fault until the next one."""

    fault: str
    at: float  # seconds since the load began
    requests: int
    first: int  # requests whose first attempt failed
    failed: int  # requests that never succeeded
    slowest: float  # seconds
    memory: float  # MB of their own, at the end of it
    recovered: float | None  # seconds; None: not while we waited


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole run."""

    machine: Machine
    options: dict[str, object]
    sustained: float  # requests a second of the closed loop
    rate: float  # requests a second of the load
    rows: list[Row]
    requests: int  # of the load outside the flood
    first_share: float
    failed_share: float
    p50: float  # seconds
    p99: float
    client_calls: int
    client_failed: int
    wrong: int
    stale: int
    flood: dict[str, int]
    memory: dict[str, float]  # MB
    examples: list[str]
    holds: dict[str, bool]


class Made(NamedTuple):
    """A fault that was made."""

    since: float  # time.monotonic() from which recovery is counted
    over: Callable[[], float | None]  # since when its effect is gone; None: it is not
    note: str = ""


Fault = Callable[[float], Awaitable[Made]]
"""Makes a fault; one that lasts takes so many seconds."""


class Soak:
    """One run against a running service."""

    def __init__(
        self,
        options: argparse.Namespace,
        world: World,
        registry: Registry,
        service: Service,
        *,
        s3: psutil.Process,
        cache: Path,
        may_fill: bool,
    ) -> None:
        self._options = options
        self._world = world
        self._registry = registry
        self._space = registry.space(SPACE)
        self._service = service
        self._s3 = s3
        self._cache = cache
        self._may_fill = may_fill
        self.tally = Tally(Allowed(frozenset({1}), frozenset({START - 1})))
        mix = Mix(world, host=service.url.removeprefix("http://"))
        self._load = Load(service.url, world, mix, self.tally)
        self._rate = 0.0
        self._most_memory = 0.0
        self._flooded = (0.0, 0.0)  # from, to
        self._phases: list[Phase] = []
        self._start = 0.0

    async def run(self) -> Report:
        """All of it."""
        options = self._options
        warm_up = max(options.seconds / 40, 5.0)
        await self._load.warm()
        sustained = await self._load.closed(connections=_CONNECTIONS, seconds=warm_up)
        self._rate = sustained * options.load
        say(f"{sustained:.0f} requests a second are sustained; the load is {self._rate:.0f}")
        self.tally.examples.clear()
        self._start = time.monotonic()
        stop = asyncio.Event()
        background = [
            asyncio.create_task(self._load.opened(self._rate, until=stop.is_set)),
            asyncio.create_task(self._watch_memory(stop)),
        ]
        with paging(self._service.url, self._world, self.tally, pause=0.5):
            for version in (0, 1):  # memory grows once, with the first tables that are taken up
                made = await self._move(partial(promote, self._space, version), version)
                while made.over() is None:  # noqa: ASYNC110 - noted by many answers
                    await asyncio.sleep(0.25)
            await asyncio.sleep(warm_up)
            settled = await asyncio.to_thread(self._service.memory)
            faults = self._faults()
            each = (options.seconds - 3 * warm_up) / len(faults)
            for name, fault in faults.items():
                self._phases.append(await self._one(name, fault, each))
                say(line(self._row(self._phases[-1])))  # some of its requests have no answer yet
            await asyncio.sleep(warm_up)
            ended = await asyncio.to_thread(self._service.memory)
            stop.set()
        await asyncio.gather(*background)
        await self._load.finish()
        return self._report(sustained, settled, ended)

    def _faults(self) -> dict[str, Fault]:
        return {
            "replica killed": self._kill_replica,
            "controller killed": self._kill_controller,
            "proxy killed": self._kill_proxy,
            "promotion": lambda _: self._move(lambda: promote(self._space, 2), 2),
            "publication, promotion": lambda _: self._update(),
            "rollback": lambda _: self._move(lambda: rollback(self._space), 2),
            "registry hangs, promotion": self._hang,
            "cached file damaged": self._damage,
            **({"disk full, promotion": self._fill_disk} if self._may_fill else {}),
            f"flood of {_FLOOD} × the load": self._flood,
        }

    async def _one(self, name: str, fault: Fault, seconds: float) -> Phase:
        """Make one fault, and wait until it is over and the time is up."""
        start, tally = time.monotonic(), self.tally
        tally.last_failure = start
        made = await fault(seconds / 3)
        over: float | None = None
        recovered: float | None = None
        while time.monotonic() < made.since + _PATIENCE and recovered is None:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            gone = await asyncio.to_thread(made.over)
            if gone is None or not self._all_answer(now):
                over = None
                continue
            over = over or gone
            if now > max(tally.last_failure, over) + _QUIET:
                recovered = max(tally.last_failure, over, made.since) - made.since
        if "flood" in name:
            self._flooded = start, time.monotonic()
        await asyncio.sleep(max(start + seconds - time.monotonic(), 0))
        fault_ = name + (f" ({made.note})" if made.note else "")
        memory = await asyncio.to_thread(self._service.memory)
        return Phase(fault_, start, time.monotonic(), recovered, memory.own)

    def _row(self, phase: Phase) -> Row:
        done = self.tally.between(phase.start, phase.end, "load")
        return Row(
            fault=phase.fault,
            at=phase.start - self._start,
            requests=len(done),
            first=sum(d.first is not None for d in done),
            failed=sum(d.failed is not None for d in done),
            slowest=max((d.seconds for d in done), default=0.0),
            memory=phase.memory,
            recovered=phase.recovered,
        )

    def _all_answer(self, now: float) -> bool:
        """Whether each replica has answered in the last seconds."""
        recent = sum(at > now - _LEAD for at in self.tally.processes.values())
        return recent >= self._service.replicas

    async def _kill_replica(self, _seconds: float) -> Made:
        found = await asyncio.to_thread(self._service.processes, REPLICA)
        pid = random.choice(list(found))  # noqa: S311
        return self._kill({pid: found[pid]}, lambda: self._service.processes(REPLICA), len(found))

    async def _kill_controller(self, _seconds: float) -> Made:
        found = await asyncio.to_thread(self._service.processes, CONTROLLER)
        return self._kill(found, lambda: self._service.processes(CONTROLLER), len(found))

    async def _kill_proxy(self, _seconds: float) -> Made:
        found = await asyncio.to_thread(self._service.proxies)
        names = ", ".join(sorted({process.name() for process in found.values()}))
        return self._kill(found, self._service.proxies, 1, note=names)

    def _kill(
        self,
        killed: Processes,
        present: Callable[[], Processes],
        count: int,
        *,
        note: str = "",
    ) -> Made:
        """Kill processes; that is over when as many others are there."""
        if not killed:
            raise RuntimeError("expected a process to kill, found none of that name")
        self.tally.processes.clear()
        kill(killed)

        def over() -> float | None:
            now = present()
            whole = len(now) >= count and not killed.keys() & now.keys()
            return time.monotonic() if whole else None

        return Made(time.monotonic(), over, note)

    async def _move(self, move: Callable[[], object], version: int) -> Made:
        """Move `prod`; from two seconds after its first answer, no other table may answer."""
        tally = self.tally
        tally.allowed = replace(tally.allowed, prod=tally.allowed.prod | {version})
        tally.sources.pop(version, None)
        since = time.monotonic()
        await asyncio.to_thread(move)

        def over() -> float | None:
            first = tally.sources.get(version)
            if first is None or time.monotonic() < first + _LEAD:
                return None
            tally.allowed = replace(tally.allowed, prod=frozenset({version}))
            return first

        return Made(since, over)

    async def _update(self) -> Made:
        new = self._world.versions
        allowed = self.tally.allowed
        self.tally.allowed = replace(allowed, latest=allowed.latest | {new})
        await asyncio.to_thread(self._world.publish, self._registry)
        return await self._move(lambda: promote(self._space, new), new)

    async def _hang(self, seconds: float) -> Made:
        self._s3.suspend()
        await asyncio.sleep(seconds)
        self._s3.resume()
        made = await self._move(lambda: promote(self._space, START - 1), START - 1)
        return made._replace(note=f"for {seconds:.0f} s")

    async def _damage(self, _seconds: float) -> Made:
        """Change half of each file with vectors of the version in force: its table and views."""
        (source,) = self.tally.allowed.prod
        paths = list(self._cache.glob(f"*/{SPACE}/*/{source}-*/vectors.npy"))
        right = {path: await asyncio.to_thread(_sha256, path) for path in paths}
        for path in paths:
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.seek(size // 2)
                file.write(os.urandom(size - size // 2))
        since = time.monotonic()

        def over() -> float | None:
            whole = all(not path.exists() or _sha256(path) == right[path] for path in paths)
            return time.monotonic() if whole and any(path.exists() for path in paths) else None

        return Made(since, over, f"{len(paths)} files")

    async def _fill_disk(self, seconds: float) -> Made:
        """Fill the cache's disk, and promote a version that has no copy yet."""
        never_copied = 3
        filler = await asyncio.to_thread(fill, self._cache)
        made = await self._move(lambda: promote(self._space, never_copied), never_copied)
        await asyncio.sleep(seconds)
        full = never_copied not in self.tally.sources
        filler.unlink()
        note = f"for {seconds:.0f} s" if full else "but there was a copy"
        return Made(time.monotonic(), made.over, note)

    async def _flood(self, seconds: float) -> Made:
        end = time.monotonic() + seconds
        await self._load.opened(
            self._rate * (_FLOOD - 1), until=lambda: time.monotonic() > end, stream="flood"
        )
        since = time.monotonic()

        def over() -> float | None:
            recent = [d for d in self.tally.done[-200:] if d.stream == "load"]
            return None if any(d.seconds > _SLOW for d in recent) else time.monotonic()

        return Made(since, over, f"for {seconds:.0f} s")

    async def _watch_memory(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            memory = await asyncio.to_thread(self._service.memory)
            self._most_memory = max(self._most_memory, memory.own)
            await asyncio.sleep(max(self._options.seconds / 60, 2.0))

    def _report(self, sustained: float, settled: Memory, ended: Memory) -> Report:
        tally, options = self.tally, self._options
        outside = [
            d for d in tally.done
            if d.stream == "load" and not self._flooded[0] <= d.due < self._flooded[1]
        ]  # fmt: skip
        calls = [d for d in tally.done if d.stream == "client"]
        flood = [d for d in tally.done if d.stream == "flood"]
        seconds = [d.seconds for d in outside]
        failed = sum(d.failed is not None for d in outside) / len(outside)
        return Report(
            machine=machine("ray", "uvicorn", "uvloop", "httpx", "numpy", "pyarrow"),
            options={k: v for k, v in vars(options).items() if k != "json"},
            sustained=sustained,
            rate=self._rate,
            rows=[self._row(phase) for phase in self._phases],
            requests=len(outside),
            first_share=sum(d.first is not None for d in outside) / len(outside),
            failed_share=failed,
            p50=percentile(seconds, 0.5),
            p99=percentile(seconds, 0.99),
            client_calls=len(calls),
            client_failed=sum(d.failed is not None for d in calls),
            wrong=tally.bad["wrong"],
            stale=tally.bad["stale"],
            flood={
                "requests": len(flood),
                "answered": sum(d.failed is None for d in flood),
                "not sent": tally.unsent,
            },
            memory={
                "settled": settled.own,
                "ended": ended.own,
                "most": self._most_memory,
                "settled, with mapped files": settled.all,
                "ended, with mapped files": ended.all,
            },
            examples=tally.examples,
            holds={
                "no wrong vector": not tally.bad["wrong"],
                "no table but the one in force": not tally.bad["stale"],
                "at most 0.1 % failed": failed <= MOST_FAILED,
                "no call of the client failed": not any(d.failed for d in calls),
                "each fault is over within 30 s": all(
                    phase.recovered is not None and phase.recovered <= RECOVERY_SECONDS
                    for phase in self._phases
                ),
                "memory within 10 %": abs(ended.own / settled.own - 1) <= MEMORY_SHARE,
            },
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


HEAD = (
    "| fault | at s | requests | first | failed | slowest s | recovered s | MB |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|"
)


def line(row: Row) -> str:
    """A row of the table."""
    recovered = "not" if row.recovered is None else f"{row.recovered:.1f}"
    return (
        f"| {row.fault} | {row.at:.0f} | {row.requests} | {row.first} | {row.failed} "
        f"| {row.slowest:.2f} | {recovered} | {row.memory:.0f} |"
    )


def show(report: Report) -> None:
    """Print the table and what holds."""
    print(HEAD)
    for row in report.rows:
        print(line(row))
    memory = report.memory
    print(
        f"\n{report.sustained:.0f} requests/s sustained, {report.rate:.0f} sent; p50 "
        f"{report.p50 * 1000:.0f} ms, p99 {report.p99 * 1000:.0f} ms\n"
        f"{report.requests} requests outside the flood: {report.first_share:.3%} failed at first, "
        f"{report.failed_share:.3%} in the end; {report.client_calls} look-ups by the client, "
        f"{report.client_failed} failed\n"
        f"wrong: {report.wrong}; from a table not in force: {report.stale}; flood: {report.flood}\n"
        f"memory of replicas and watcher: {memory['settled']:.0f} MB after warm-up, "
        f"{memory['ended']:.0f} at the end, {memory['most']:.0f} at most; with mapped files "
        f"{memory['settled, with mapped files']:.0f} and {memory['ended, with mapped files']:.0f}"
    )
    for example in report.examples:
        print(f"  {example:.300}")
    for what, held in report.holds.items():
        print(f"{'holds' if held else 'FAILS'}: {what}")


def say(text: str) -> None:
    """Print progress to stderr; stdout holds the results."""
    print(text, file=sys.stderr, flush=True)


def soak(options: argparse.Namespace) -> Report:
    """Start everything, run, and stop everything."""
    world = World(rows=options.rows, dim=options.dim)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        cache = Path(folder, "cache")
        table = 4 * options.rows * (options.dim + 16 * START)
        may_fill = stack.enter_context(small_disk(cache, size=8 * table + (8 << 20)))
        if not may_fill:
            say("this user may not mount a disk: the fault `disk full` is left out")
        uri, s3 = stack.enter_context(s3_server())
        registry = Registry(uri)
        for _ in range(START):
            world.publish(registry)
        promote(registry.space(SPACE), 1)
        promote(registry.space(SPACE), 0, alias=STABLE)
        pin(registry)
        service = Service(uri, cache, replicas=2, log=Path(folder, "log"))
        stack.callback(service.stop)
        run = Soak(options, world, registry, service, s3=s3, cache=cache, may_fill=may_fill).run()
        return uvloop.run(run)


def main() -> int:
    """Run, print, and say whether all bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="of the whole run, about")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument(
        "--dim", type=int, default=256, help="of version 0; each next one has 16 more"
    )
    parser.add_argument("--load", type=float, default=0.8, help="share of what is sustained")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    options = parser.parse_args()
    print(header(machine("ray", "uvicorn", "numpy")), flush=True)
    report = soak(options)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=2, default=str) + "\n")
    return 0 if all(report.holds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
