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
from collections.abc import Callable, Mapping
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
    os.environ.update({k: v for k, v in variables.items() if k.startswith("RAY_")})
    os.environ["HOME"] = variables["HOME"]
