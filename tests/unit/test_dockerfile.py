"""The Dockerfile, which no test builds: its lint, and the files that it needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

HADOLINT = Path(sys.executable).with_name("hadolint")
TEXT = (ROOT / "Dockerfile").read_text("utf-8")


def lint(text: str) -> str:
    done = subprocess.run(
        [HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, check=False
    )
    return done.stdout


def test_the_linter_has_nothing_to_say():
    assert lint(TEXT) == ""


@pytest.mark.parametrize(
    ("found", "planted", "rule"),
    [
        ("FROM python:3.11-slim-bookworm", "FROM python:latest", "DL3007"),
        ("USER 1000\n", "USER root\n", "DL3002"),
        ("WORKDIR /opt/backstay", "WORKDIR backstay", "DL3000"),
        ("RUN python3 bootstrap.py setup", "RUN python3 bootstrap.py setup &&", "SC1072"),
    ],
)
def test_the_linter_finds_a_planted_mistake(found, planted, rule):
    assert found in TEXT
    assert rule in lint(TEXT.replace(found, planted))


def test_both_targets_come_from_the_locks_alone():
    assert re.findall(r"^FROM (\S+) AS (\S+)$", TEXT, re.MULTILINE) == [
        ("python:3.11-slim-bookworm", "base"),
        ("base", "cpu"),
        ("base", "gpu"),
    ]
    assert TEXT.count("RUN python3 bootstrap.py setup\n") == 2  # installs by hash
    assert "pip install" not in TEXT
    gpu = TEXT.partition("AS gpu")[2]
    assert "BACKSTAY_GPU=1" in gpu.partition("RUN")[0]


def test_what_is_copied_is_there_and_not_ignored():
    sources = {
        source
        for line in re.findall(r"^COPY --chown=ray:users (.+)$", TEXT, re.MULTILINE)
        for source in line.split()[:-1]
    }
    allowed = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in allowed
    for source in sources:
        assert list(ROOT.glob(source)), source
        assert f"!{source.partition('/')[0]}" in allowed
