"""Runs a module of the tests in namespaces of its own, and helps it there.

No port is taken, no other Ray is stopped, and all its processes end with it. It prints what
happened, by its parts, as one line of JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import processes
from tests.support.processes import ROOT

CONFIG = yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8"))
APART = ("unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc")


def run_apart(module: str, *arguments: object, timeout: float) -> dict[str, Any]:
    """Run a module with a new folder and these arguments; returns its parts.

    Skips the test where the machine allows no namespaces.
    """
    tried = subprocess.run([*APART, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine allows no network namespaces: {tried.stderr.strip()}")
    with tempfile.TemporaryDirectory(prefix="bs-", ignore_cleanup_errors=True) as home:
        done = subprocess.run(
            [*APART, sys.executable, "-m", module, home, *map(str, arguments)],
            cwd=ROOT,
            env=processes.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def part(parts: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """A part of the run; prints its lines, whether the test fails or not."""
    found = parts.get(name, {"lines": []})
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(f"    {line}" for line in found["lines"]) + "\n")
    for failed in ("failed", f"{name} failed"):
        assert failed not in parts, parts[failed]
    return found


class Report:
    """What happened, by the seconds since the start."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.parts: dict[str, Any] = {}

    def line(self, text: str) -> str:
        return f"{time.monotonic() - self.began:5.1f} s  {text}"

    def run(self, steps: Mapping[str, Callable[[], None]], *, start: Callable[[], None]) -> None:
        """Start, then run every step, print the parts and end all processes."""
        try:
            start()
            for name, run in steps.items():
                try:
                    run()
                except Exception:  # noqa: BLE001 - a part that fails leaves the others alone
                    self.parts[f"{name} failed"] = traceback.format_exc()
        except Exception:  # noqa: BLE001 - reported
            self.parts["failed"] = traceback.format_exc()
        sys.stdout.write(json.dumps(self.parts) + "\n")
        sys.stdout.flush()
        os._exit(0)  # the end of this process ends every other in its namespace


def shell(command: str, **options) -> None:
    """Run a command of bash, which must succeed."""
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, **options)
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout.decode()}\n{done.stderr.decode()}")


def container(home: Path) -> dict[str, str]:
    """The variables of cluster.yaml's container, with `home` as the folder of its user."""
    options = (option.removeprefix("--env=") for option in CONFIG["docker"]["run_options"])
    given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {
        **given,
        **dict(option.split("=", 1) for option in options),
        "HOME": str(home),
        "RAY_AUTH_TOKEN_PATH": str(home / ".ray" / "auth_token"),
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",  # no listener
        # On a node the image has the project's environment on PATH, here Python's own folder.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "platform"))),
    }


def make_token(variables: dict[str, str]) -> None:
    """Make the cluster's token, and let this process use it."""
    subprocess.run(
        [sys.executable, "-m", "backstay", "cluster", "token"],
        env=variables,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    use_token(variables)


def use_token(variables: dict[str, str]) -> None:
    """Let this process use the cluster's token."""
    os.environ.update({k: v for k, v in variables.items() if k.startswith("RAY_")})
    os.environ["HOME"] = variables["HOME"]


def scan(report: Report, address: str, inside: Sequence[str] = ()) -> None:
    """Ask every port of a machine without the token, from a process on it that has none.

    `inside` is the beginning of a command that runs on that machine, if it is another one.
    """
    path = Path(__file__).with_name("port_scan.py")
    given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [*inside, sys.executable, path, address],
        env=given, check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    lines = [
        report.line(f"{host}:{port}, {process}: {count} requests without the token")
        for host, port, process, count in found["asked"]
    ]
    lines += [
        f"answered: {host}:{port}, {process}: {request} → {answer}"
        for host, port, process, request, answer in found["answered"]
    ]
    report.parts["scan"] = {**found, "lines": lines}


HARMLESS = {
    ("/", 200),  # the dashboard's page, without data
    ("/api/authentication_mode", 200),  # that it needs a token
    ("/timezone", 200),
    ("/api/gcs_healthz", 200),
    ("/api/local_raylet_healthz", 200),
    ("grpc.health.v1.Health/Check", "OK"),
}


def check_scan(found: dict[str, Any], *processes: str) -> None:
    """Check that these processes were asked, and that none told a thing without the token."""
    assert {process for _, _, process, _ in found["asked"]} >= set(processes)
    assert all(requests for *_, requests in found["asked"])
    assert [entry for entry in found["answered"] if (entry[3], entry[4]) not in HARMLESS] == []
