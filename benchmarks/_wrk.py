"""Load from wrk, a generator in C, so that the client is not what is measured."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np

from backstay.serving import wire

_LUA = """
local requests, next = {}, 0
function init(arguments)
  local headers = {["Accept"] = arguments[3]}
  for line in io.lines(arguments[1]) do
    if arguments[2] == "GET" then
      requests[#requests + 1] = wrk.format("GET", line, headers)
    else
      headers["Content-Type"] = "application/json"
      requests[#requests + 1] = wrk.format("POST", arguments[2], headers, line)
    end
  end
end
function request() next = next % #requests + 1; return requests[next] end
function done(summary, latency)
  local failed = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
"""


class Load(NamedTuple):
    """Requests, sent in turn and again from the first."""

    name: str
    target: str  # GET, or the path to POST to
    lines: list[str]  # paths, or bodies
    accept: str = wire.JSON


class Result(NamedTuple):
    """What wrk measured."""

    rate: float  # requests a second
    p50: float  # ms
    p99: float  # ms


class Side(NamedTuple):
    """A server, and the requests that it gets."""

    name: str
    url: str
    load: Load


def measure(side: Side, *, connections: int, seconds: float, scratch: Path) -> Result:
    """Measure one server once; RuntimeError if a request fails."""
    program = shutil.which("wrk") or sys.exit("wrk makes the load: apt-get install wrk")
    script, lines = scratch / "wrk.lua", scratch / "lines"
    script.write_text(_LUA)
    lines.write_text("\n".join(side.load.lines) + "\n")
    said = subprocess.run(
        [program, "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "-s", script, side.url, "--",
         lines, side.load.target, side.load.accept],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    requests, micros, p50, p99, failed = map(int, said.partition("RESULT ")[2].split())
    if failed:
        raise RuntimeError(f"{failed} of {requests} requests to {side.name} failed:\n{said}")
    return Result(requests / micros * 1e6, p50 / 1000, p99 / 1000)


def warm(side: Side) -> bytes:
    """Send every 20th request once; the body of the last answer."""
    load, body = side.load, b""
    with httpx.Client(base_url=side.url, headers={"Accept": load.accept}, timeout=60) as client:
        for line in load.lines[::20]:
            if load.target == "GET":
                response = client.get(line)
            else:
                headers = {"Content-Type": wire.JSON}
                response = client.post(load.target, content=line, headers=headers)
            body = response.raise_for_status().content
    return body


def print_header() -> None:
    """The head of the table that `compare` prints."""
    print("\n| request | connections | server | requests/s | p50 ms | p99 ms | ours / it |")
    print("|---|---|---|---|---|---|---|", flush=True)


def compare(
    ours: Side, *rivals: Side, connections: int, rounds: int, seconds: float, scratch: Path
) -> None:
    """Measure servers in turns. Prints the medians, and the median of ours / theirs in a round."""
    sides = (ours, *rivals)
    found: dict[str, list[Result]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            result = measure(side, connections=connections, seconds=seconds, scratch=scratch)
            found[side.name].append(result)
    for side in sides:
        print_row(side, connections, found[side.name], found[ours.name])


def print_row(side: Side, connections: int, results: list[Result], ours: list[Result]) -> None:
    """Print the medians of one server, and how ours compares, round by round."""
    rate, p50, p99 = np.median(np.array(results), axis=0)
    ratio = np.median([a.rate / b.rate for a, b in zip(ours, results, strict=True)])
    print(
        f"| {side.load.name} | {connections} | {side.name} | {rate:.0f} | {p50:.2f} | {p99:.2f} "
        f"| {'' if results is ours else f'{ratio:.2f}'} |",
        flush=True,
    )
