"""Runs the commands of docs/how-to/cluster.md, in order, on a cluster of made-up machines.

Programs that need a cloud have stand-ins: `docker build` looks for the target in the Dockerfile,
`ray up` runs the commands with which the launcher starts the head, `ray dashboard` asks whether the
job server listens, and `ray down` stops Ray. Everything else runs as it is written.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "how-to" / "cluster.md"
LAST = "## When a machine vanishes"  # the sections before it go from nothing to a served version
BUILDS = '[[ "$*" =~ ^build\\ --target\\ ([a-z]+)\\ --tag\\ backstay:[^\\ ]+\\ \\.$ ]]'
RAY = """\
case "$*" in
"up cluster.yaml") source {up} ;;
"dashboard cluster.yaml") : < /dev/tcp/127.0.0.1/8265 ;;
"down cluster.yaml") exec {ray} stop ;;
*) exec {ray} "$@" ;;
esac
"""


def sections() -> dict[str, str]:
    """The commands of each section, by its heading."""
    text, found, _ = PAGE.read_text("utf-8").partition(LAST)
    assert found
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return {
        heading: "".join(re.findall(r"```sh\n(.*?)```", body, re.DOTALL))
        for heading, body in zip(parts[::2], parts[1::2], strict=True)
    }


class Reader:
    """Somebody who follows the page, with the project in a folder and stand-ins on PATH."""

    def __init__(self, home: Path, variables: dict[str, str], *, up: str) -> None:
        """`up` is the script for `ray up`."""
        self.project, programs = home / "project", home / "bin"
        for name in ("platform", "jobs", "serve"):
            shutil.copytree(
                ROOT / name, self.project / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in ("cluster.yaml", "Dockerfile", ".rayignore"):
            shutil.copy(ROOT / name, self.project / name)
        programs.mkdir()
        script = programs / "up.sh"
        script.write_text(up, "utf-8")
        ray = Path(sys.executable).parent / "ray"
        docker = f'{BUILDS} && grep -q " AS ${{BASH_REMATCH[1]}}$" Dockerfile\n'
        for name, text in {"docker": docker, "ray": RAY.format(up=script, ray=ray)}.items():
            program = programs / name
            program.write_text(f"#!/bin/bash\n{text}", "utf-8")
            program.chmod(0o755)
        self.variables = {**variables, "PATH": f"{programs}:{variables['PATH']}"}

    def edit(self, path: str, changes: Mapping[str, str]) -> None:
        """Change the lines of a file that are marked EDIT."""
        file = self.project / path
        file.write_text(_changed(file.read_text("utf-8"), changes), "utf-8")

    def follow(self, section: str, changes: Mapping[str, str] | None = None) -> str:
        """Run all commands of a section; returns what they print.

        `changes` are the words of the page in whose place a reader writes something else.
        """
        commands = _changed(sections()[section], changes or {})
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.project, env=self.variables, capture_output=True, text=True, timeout=150,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{section}:\n{commands}\n{done.stdout}\n{done.stderr}")
        return done.stdout


def _changed(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"expected {old!r} in:\n{text}"
        text = text.replace(old, new)
    return text
