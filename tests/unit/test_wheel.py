"""The wheel: built from this tree, installed in a fresh environment, and run there."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support.processes import ROOT

PACKAGE = ROOT / "platform" / "backstay"


def run(*command: object, cwd: Path) -> str:
    """Run a command without this tree on Python's path; its stdout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment that holds the wheel; its requirements are this environment's."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "virtualenv", "--no-download", folder, cwd=folder)
    run(folder / "bin/python", "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is searched, but the .pth files there are not read: the editable
    # installation of this tree stays out of sight.
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder


def test_the_wheel_holds_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("backstay/")}
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert packed == {str(path.relative_to(PACKAGE.parent)) for path in files}
    assert "backstay/py.typed" in packed
    assert any(name.endswith(".j2") for name in packed)


def test_the_installed_package_is_the_wheel_s(environment):
    code = "import backstay; print(backstay.__file__); backstay.Registry"
    place = run(environment / "bin/python", "-c", code, cwd=environment).strip()
    assert Path(place).is_relative_to(environment)


def test_the_installed_command_works(environment, tmp_path):
    command = environment / "bin/backstay"
    assert run(command, "--help", cwd=tmp_path).startswith("Usage: backstay ")
    options = ("--interactions", 2000, "--out", "data", "--json")
    answer = json.loads(run(command, "marketplace", *options, cwd=tmp_path))
    assert answer
    assert (tmp_path / "data" / "dataset.json").is_file()
